"""Configuration: defaults in one struct, overridden by a TOML file, overridden by the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from capture.address import shown
from runtime.dashboard.address import Address, AddressError
from runtime.endpoint import DEFAULT_ENDPOINT
from runtime.engine import ENGINES


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it, its value and what is expected."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every setting of a session. A TOML file holds any of them under the same names."""

    input: str | None = None  # file or URL; None: camera and microphone
    camera: str = "0"  # device number or path; "none" for no camera
    microphone: str = "default"  # name or number; "none" for no microphone
    camera_delay_ms: float = 0.0  # from the world to a frame; see runtime.calibrate
    microphone_delay_ms: float = 0.0  # from the world to a sample
    asr: str = "auto"  # none | subtitles[:FILE] | whisper[:SIZE]; auto: see ``runtime.live --help``
    language: str | None = None  # of the recogniser; None: it guesses
    fast: bool = False  # read a file as fast as it goes, and lose nothing
    replay: str | None = None
    all_windows: bool = False  # of a replay: also those that the recorded session gave up
    record: str | None = None
    demo: bool = False
    loop: bool = False
    network: str | None = None  # folder of a bundle; None: the bundled network
    engine: str = "auto"
    threads: int = 1
    endpoint: str = DEFAULT_ENDPOINT
    keys: str | None = None  # folder of runtime.keys; None: anybody on this machine may listen
    session: str | None = None  # name; None: made from the date
    share_words: bool = False  # publish what was said, on a topic of its own
    share_face: bool = False  # publish the face in numbers, on a topic of its own
    share_raw: bool = False  # publish pictures and sound, on a topic of their own
    record_raw: str | None = None  # record pictures and sound: who agreed to that, in words
    hop_s: float = 0.5
    lateness_s: float = 0.25  # how long a window waits for samples after its end, beyond the devices' delays
    max_age_s: float = 2.0  # an older window is not inferred any more: newest only; beyond the delays, too
    duration_s: float | None = None
    dashboard: bool = True  # show the stream in this terminal
    page: str | None = None  # HOST:PORT of the dashboard in a browser; None: no page

    def __post_init__(self) -> None:
        for name in ("camera_delay_ms", "microphone_delay_ms"):
            value = getattr(self, name)
            _demand(0 <= value <= 2000, name, value, "0 to 2000 milliseconds")
        _demand(0.05 <= self.hop_s <= 10, "hop_s", self.hop_s, "0.05 to 10 seconds")
        _demand(0 <= self.lateness_s <= 10, "lateness_s", self.lateness_s, "0 to 10 seconds")
        _demand(
            self.lateness_s < self.max_age_s <= 3600,
            "max_age_s",
            self.max_age_s,
            "more than lateness_s, to 3600",
        )
        _demand(
            self.duration_s is None or 0 < self.duration_s < 1e9,
            "duration_s",
            self.duration_s,
            "a positive number",
        )
        _demand(1 <= self.threads <= 64, "threads", self.threads, "1 to 64")
        _demand(self.engine in ENGINES, "engine", self.engine, f"one of {', '.join(ENGINES)}")
        _demand(
            re.fullmatch(r"auto|none|subtitles(:.+)?|whisper(:.+)?", self.asr) is not None,
            "asr",
            self.asr,
            "none, subtitles[:FILE] or whisper[:SIZE]",
        )
        _demand(
            self.session is None or re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.session) is not None,
            "session",
            self.session,
            "letters, digits, - and _",
        )
        if self.page is not None:
            try:
                Address.parse(self.page)
            except AddressError as error:
                raise ConfigError(str(error)) from error
        if self.page is not None and self.keys is not None:
            raise ConfigError(
                "keys and the page exclude each other, for the page needs a key of its own: "
                "start it with python -m runtime.dashboard --key FILE"
            )
        sources = [name for name in ("input", "replay", "demo") if getattr(self, name)]
        if len(sources) > 1:
            raise ConfigError(f"{' and '.join(sources)} exclude each other: choose one source")
        if self.fast and not sources:
            raise ConfigError("fast needs a file: add --input FILE or --replay FILE")
        if self.loop and not self.demo:
            raise ConfigError("loop belongs to the demo: add --demo")
        if self.all_windows and not self.replay:
            raise ConfigError("all_windows belongs to a recording: add --replay FILE")
        if self.record_raw is not None:
            _demand(
                len(self.record_raw.split()) >= 2,
                "record_raw",
                self.record_raw,
                'who agreed to pictures and sound being kept, in words, such as "Ada agreed on 3 May"',
            )
            if self.record is None or self.replay is not None:
                raise ConfigError("record_raw needs a recording of what is captured: add --record FILE")
        if self.record and self.demo:
            raise ConfigError("record has nothing to keep of the demo: it is a recording already")

    @property
    def raw(self) -> bool:
        """Pictures and sound leave the capture processes."""
        return self.share_raw or self.record_raw is not None


def told(config: Config) -> dict[str, Any]:
    """The settings as they may be published and recorded: no password of a network camera."""
    values: dict[str, Any] = msgspec.to_builtins(config)
    if config.input is not None:
        values["input"] = shown(config.input)
    if config.record is not None:
        values["record"] = str(Path(config.record).absolute())  # whoever hears it is in another folder
    return values


def load(toml: Path | None, overrides: dict[str, Any]) -> Config:
    """Merge the defaults, a TOML file and the command line's ``overrides``.

    Raises:
        ConfigError: the file cannot be read, or a name or value is wrong.
    """
    settings: dict[str, Any] = {}
    if toml is not None:
        try:
            settings = msgspec.toml.decode(toml.read_bytes())
        except OSError as error:
            raise ConfigError(f"{toml}: {error.strerror}: --config takes a TOML file") from error
        except (msgspec.DecodeError, ValueError, RecursionError) as error:  # a number may be too long to read
            raise ConfigError(f"{toml} is not TOML: {error}") from error
    try:
        return msgspec.convert(settings | overrides, Config)
    except msgspec.ValidationError as error:
        where = f"{toml}: " if toml is not None else ""
        raise ConfigError(f"{where}{error}") from error


def _demand(good: bool, name: str, value: object, expected: str) -> None:
    if not good:
        raise ConfigError(f"{name} = {value!r}: expected {expected}")
