"""Page: lays out the panels, redraws them a few times a second, and takes the operator's keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nicegui import ui
from nicegui.events import KeyEventArguments

from runtime.dashboard.board import HISTORY_S, Board
from runtime.dashboard.drawing import attrs, box, card, say, styles, swap, text
from runtime.dashboard.face import FacePanel
from runtime.dashboard.felt import FeltPanel
from runtime.dashboard.graph import GraphPanel
from runtime.dashboard.panels import HealthPanel, LatencyPanel, SensesPanel, WordsPanel
from runtime.dashboard.phrases import clock, time_of_day
from runtime.dashboard.playback import Playback, Player
from runtime.markers import Marker, Markers, MarkersError

REDRAW_S = 0.2
CSS = Path(__file__).with_name("page.css")
LATEST_MARKERS = 6
THEMES: tuple[tuple[bool | None, str, str], ...] = (
    (None, "brightness_auto", "Theme: as the system"),
    (False, "light_mode", "Theme: light"),
    (True, "dark_mode", "Theme: dark"),
)
SPEEDS = {1.0: "1×", 2.0: "2×", 4.0: "4×", 0.5: "½×"}


class Page:
    """One viewer's page.

    Args:
        board: gives what is to be shown now.
        markers: gives the file that markers go to; None: there is no session yet.
        playback: the recording that is shown; None: a live stream.
        at_s: where a recording is opened, seconds.
    """

    def __init__(
        self,
        board: Callable[[], Board],
        markers: Callable[[], Markers | None],
        *,
        playback: Playback | None = None,
        at_s: float | None = None,
    ) -> None:
        self._board, self._markers, self._playback = board, markers, playback
        self._player = None if playback is None else Player(playback.duration_s)
        self._span_s = HISTORY_S
        if self._player is not None:
            self._span_s = min(HISTORY_S, max(10.0, self._player.duration_s))
            self._player.seek(at_s or 0.0)
        self._drawn: object = None
        self._marked: tuple[Path, int] | None = None
        ui.add_css(CSS)
        self._theme = 0
        self._dark = ui.dark_mode(None)
        with box("page"):
            self._head()
            if self._player is not None:
                self._scrubber(self._player)
            with box("sides", "main"):
                with box("side"):
                    felt, graph, latency = FeltPanel(self._span_s), GraphPanel(), LatencyPanel()
                with box("side"):
                    self._face = FacePanel()
                    senses = SensesPanel()
                    self._marker_card()
                    health = HealthPanel()
                words = WordsPanel()
            self._panels = (felt, senses, words, graph, latency, health)
        ui.keyboard(self._key, repeating=False, ignore=[])
        self._redraw()
        ui.timer(REDRAW_S, self._redraw)

    def _redraw(self) -> None:
        """Draw what is new; the browser is sent only the elements that changed."""
        board = self._now()
        self._status(board)
        self._mark_list()
        position = None if self._player is None else self._player.position_s
        if self._player is not None and position is not None:
            self._follow(self._player, position)
        self._face.show(board)  # also when nothing came: a face grows old
        if (board.session, board.version, position) == self._drawn:
            return
        self._drawn = (board.session, board.version, position)
        for panel in self._panels:
            panel.show(board)

    def _now(self) -> Board:
        if self._playback is not None and self._player is not None:
            return self._playback.board(self._player.position_s)
        return self._board()

    def _head(self) -> None:
        with box("head", "header"):
            ui.html("emotion", tag="h1", sanitize=False)
            self._session = text("", "session")
            with box("pulse", role="status"):
                self._light = box("light", aria_hidden="true")
                self._stream = text("", "muted")
            box("spring")
            button = ui.button(icon=THEMES[0][1], color=None, on_click=self._next_theme).props(
                "flat round dense"
            )
            self._theme_button = button.props(f'aria-label="{THEMES[0][2]}" title="{THEMES[0][2]}"')

    def _status(self, board: Board) -> None:
        say(self._session, board.session)
        swap(self._session, not board.session, "gone")
        if self._playback is not None:
            line, kind = "playback", "idle"
        elif board.over:
            line, kind = f"ended: {board.over}", "idle"
        elif board.heard_s is None:
            line, kind = "waiting for a session", "idle"
        elif board.silent_s:
            line, kind = f"nothing heard for {board.silent_s:.0f} s", "bad"
        else:
            line, kind = "live", "good"
        say(self._stream, line)
        for name in ("idle", "bad", "good"):
            swap(self._light, name == kind, name)

    def _next_theme(self) -> None:
        self._theme = (self._theme + 1) % len(THEMES)
        dark, icon, line = THEMES[self._theme]
        self._dark.value = dark
        self._theme_button.set_icon(icon)
        attrs(self._theme_button, aria_label=line, title=line)

    def _scrubber(self, player: Player) -> None:
        with box("card scrubber", "section", aria_label="Playback"):
            self._play = ui.button(icon="play_arrow", color=None, on_click=self._toggle).props(
                "flat round dense"
            )
            attrs(self._play, aria_label="Play (P)", title="Play (P)")
            self._place = text("", "number")
            with box("slide"):
                self._ticks = box("ticks", aria_hidden="true")
                self._slider = box("range", "input", type="range", aria_label="Position in seconds")
                attrs(self._slider, min="0", max=f"{player.duration_s:.1f}", step="0.1")
                seek = "(event) => emit(Number(event.target.value))"
                self._slider.on("input", lambda event: self._seek(float(event.args)), js_handler=seek)
            self._speed = ui.button("1×", color=None, on_click=self._next_speed).props("flat dense no-caps")
            attrs(self._speed, aria_label="Speed 1×", title="Speed")

    def _follow(self, player: Player, position_s: float) -> None:
        say(self._place, f"{clock(position_s)} / {clock(player.duration_s)}")
        attrs(self._slider, value=f"{position_s:.1f}", aria_valuetext=clock(position_s))
        icon, line = ("pause", "Pause (P)") if player.playing else ("play_arrow", "Play (P)")
        if self._play.icon != icon:
            self._play.set_icon(icon)
            attrs(self._play, aria_label=line, title=line)

    def _seek(self, position_s: float) -> None:
        if self._player is not None:
            self._player.seek(position_s)
            self._redraw()

    def _next_speed(self) -> None:
        if self._player is not None:
            speeds = list(SPEEDS)
            speed = speeds[(speeds.index(self._player.speed) + 1) % len(speeds)]
            self._player.set_speed(speed)
            self._speed.set_text(SPEEDS[speed])
            attrs(self._speed, aria_label=f"Speed {SPEEDS[speed]}")

    def _toggle(self) -> None:
        if self._player is not None:
            self._player.play(not self._player.playing)
            self._redraw()

    def _marker_card(self) -> None:
        with card("Markers", "markers"):
            with box("mark-line"):
                note = ui.input(placeholder="a note, or nothing").props('dense outlined aria-label="Note"')
                self._note = note.classes("note").on("keydown.enter", self._mark)
                note.on("keydown.stop")  # what is typed there is no command
                button = ui.button("Mark", color=None, on_click=self._mark).props(
                    'unelevated no-caps aria-label="Mark (M)"'
                )
                button.props('title="Mark (M)"').classes("mark")
            self._list = box("mark-list", "ol", aria_label="latest markers")
            self._file = text("press M at any time", "muted small")

    def _mark(self) -> None:
        board, markers = self._now(), self._markers()
        t_ns = board.now_ns()
        if self._playback is not None and self._player is not None:
            t_ns = round((self._playback.start_s + self._player.position_s) * 1e9)
        if markers is None or t_ns is None or board.emotion is None:
            ui.notify("There is no session to mark yet.")
            return
        try:
            markers.add(t_ns, board.emotion.time.clock, str(self._note.value or "").strip())
        except MarkersError as error:
            ui.notify(str(error), type="negative", multi_line=True, close_button="OK", timeout=0)
            return
        self._note.value = ""
        self._mark_list()

    def _mark_list(self) -> None:
        markers = self._markers()
        if markers is None or self._marked == (markers.path, len(markers.all)):
            return
        self._marked = (markers.path, len(markers.all))
        self._list.clear()
        with self._list:
            for marker in reversed(markers.all[-LATEST_MARKERS:]):
                with box("", "li"):
                    text(self._place_of(marker), "number")
                    text(marker.text or "marked", "" if marker.text else "muted")
        if markers.all:
            say(self._file, f"kept in {markers.path}")
        if self._playback is not None:
            self._ticks.clear()
            with self._ticks:
                for marker in markers.all:
                    share = self._since_begin_s(marker) / max(self._playback.duration_s, 0.1)
                    styles(box("tick"), left=f"{min(max(share, 0.0), 1.0):.2%}")

    def _place_of(self, marker: Marker) -> str:
        """Where it stands in a film or recording; of live devices, whose clock tells nobody much, when."""
        if self._playback is None and marker.clock == "monotonic":
            return time_of_day(marker.wall)
        return clock(self._since_begin_s(marker))

    def _since_begin_s(self, marker: Marker) -> float:
        begin_s = 0.0 if self._playback is None else self._playback.start_s
        return marker.t_ns / 1e9 - begin_s

    def _key(self, event: KeyEventArguments) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.alt or event.modifiers.meta:
            return
        match str(event.key).lower():
            case "m":
                self._mark()
            case "p":
                self._toggle()
            case "t":
                self._next_theme()
            case _:
                pass
