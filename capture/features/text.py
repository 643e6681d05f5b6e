"""Text features: the stream carries words with their times; a network's own encoder embeds them."""

from __future__ import annotations

from capture.features.spec import StreamSpec

SPEC = StreamSpec(extractor="words with times, as spoken, v1", names=("word",), rate_hz=0.0)
