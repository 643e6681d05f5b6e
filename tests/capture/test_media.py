"""Media files that are whole, but not as tidy as those that we make."""

from __future__ import annotations

from pathlib import Path

import av

from capture.media import probe
from capture.track import Track
from tests.capture.films import film


def test_a_film_whose_title_is_not_utf8_is_read(tmp_path: Path) -> None:
    plain, path = film(tmp_path / "plain.mkv", seconds=0.3), tmp_path / "titled.mkv"
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        out.metadata["title"] = "café"
        streams = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    path.write_bytes(path.read_bytes().replace("café".encode(), b"caf\xe9 "))
    assert probe(path).has_video and probe(path).has_audio
    track = Track(path, "video")
    assert len(list(track.frames())) > 5
    track.close()
