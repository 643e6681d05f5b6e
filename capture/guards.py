"""Guards: what a recogniser makes up, in loops, is left out before anybody agrees on it."""

from __future__ import annotations

from collections.abc import Sequence

from capture.agreement import normalised
from capture.messages import Word

LONGEST = 8  # words of a phrase that is looked for
REPEATS = 4  # a phrase that is said so often in a row is a loop; people say "no, no, no"


def without_loops(words: Sequence[Word]) -> list[Word]:
    """The words, of a phrase that repeats itself ``REPEATS`` times or more only the first time.

    What follows a loop is left out, too: a decoder that has lost its way does not find it again.
    """
    said = [normalised(word.text) for word in words]
    for start in range(len(said)):
        for length in range(1, LONGEST + 1):
            phrase = said[start : start + length]
            if said[start : start + length * REPEATS] == phrase * REPEATS:
                return list(words[: start + length])
    return list(words)
