"""Joins: time that goes on where a file's goes back, as in two recordings put one after the other.

Each packet of picture and sound is shown to it in the file's order, so that the processes of the two senses,
which read the file each on its own, come to the same times.
"""

from __future__ import annotations

from dataclasses import dataclass

BACK_NS = 1_000_000_000  # time that goes back by less is a broken stamp, for the reader to leave out
FEW = 10  # packets; when time is back where it was after so few, they were broken, too


@dataclass(slots=True)
class _Stream:
    last_ns: int
    part: int = 0
    before: tuple[int, int] = (0, 0)  # time and part from which it went back
    packets: int = 0  # since then


class Joins:
    """Says how much later than its stamp each packet is; ``parts`` counts what was joined."""

    def __init__(self) -> None:
        self._later_ns = [0]  # of each part
        self._end_ns = 0
        self._streams: dict[int, _Stream] = {}

    @property
    def parts(self) -> int:
        return len(self._later_ns)

    def later_ns(self, stream: int, t_ns: int, length_ns: int) -> int:
        """By how much to move a packet that says ``t_ns`` (its decoding time) and lasts ``length_ns``."""
        one = self._streams.setdefault(stream, _Stream(t_ns))
        if t_ns < one.last_ns - BACK_NS:
            one.before, one.packets = (one.last_ns, one.part), 0
            newest = max(other.part for other in self._streams.values())
            if one.part == newest:  # the first packet of a new part
                newest = self.parts
                self._later_ns.append(self._end_ns - t_ns)
            one.part = newest
        elif one.part and one.packets <= FEW and 0 <= t_ns - one.before[0] <= BACK_NS < t_ns - one.last_ns:
            one.part = one.before[1]
        one.last_ns = t_ns
        one.packets += 1
        later_ns = self._later_ns[one.part]
        self._end_ns = max(self._end_ns, t_ns + later_ns + length_ns)
        return later_ns
