"""Word pieces: BERT's uncased tokenisation, from a vocabulary in Hugging Face's ``tokenizer.json``.

Equal to the ``tokenizers`` library, which a test holds it to. Ours, because that library brings a model
hub's client and its network stack, some 50 MB, into an install that needs one short algorithm of it.
Devlin et al. 2019; the splitting rules are those of BERT's ``BasicTokenizer``, uncased.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import msgspec

MAX_WORD = 100  # characters; a longer word is unknown
_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class _Model(msgspec.Struct):
    vocab: dict[str, int]


class _File(msgspec.Struct):
    model: _Model


class WordPiece:
    """Turns a line into numbers of word pieces, ``[CLS]`` first and ``[SEP]`` last.

    Raises:
        OSError, msgspec.DecodeError: ``path`` cannot be read or is no ``tokenizer.json``.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._vocabulary = msgspec.json.decode(path.read_bytes(), type=_File).model.vocab
            self._unknown, self._first, self._last = (
                self._vocabulary[t] for t in ("[UNK]", "[CLS]", "[SEP]")
            )
        except KeyError as error:
            raise msgspec.DecodeError(f"no piece {error} in its vocabulary") from error
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from error

    def encode(self, line: str) -> list[int]:
        """The numbers of the line's pieces."""
        pieces = [piece for word in _words(line) for piece in self._pieces(word)]
        return [self._first, *pieces, self._last]

    def _pieces(self, word: str) -> list[int]:
        """The longest piece that fits, again and again; a word that cannot be covered is one unknown."""
        if len(word) > MAX_WORD:
            return [self._unknown]
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                number = self._vocabulary.get(prefix + word[start:end])
                if number is not None:
                    found.append(number)
                    start = end
                    break
            else:
                return [self._unknown]
        return found


def _words(line: str) -> Iterator[str]:
    """Lower-case words without accents; every punctuation mark and CJK character stands alone."""
    clean = "".join(" " if _is_space(c) else c for c in line if not _is_control(c))
    spaced = "".join(f" {c} " if _is_cjk(c) else c for c in clean)
    plain = "".join(c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn")
    for word in plain.lower().split():
        start = 0
        for i, c in enumerate(word):
            if _is_punctuation(c):
                if start < i:
                    yield word[start:i]
                yield c
                start = i + 1
        if start < len(word):
            yield word[start:]


def _is_space(c: str) -> bool:
    return c in " \t\n\r" or c.isspace()


def _is_control(c: str) -> bool:
    if c in "\t\n\r":
        return False
    return c in "\0\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Cn", "Co")


def _is_cjk(c: str) -> bool:
    return any(first <= ord(c) <= last for first, last in _CJK)


def _is_punctuation(c: str) -> bool:
    ascii_mark = c.isascii() and c.isprintable() and not c.isalnum() and c != " "
    return ascii_mark or unicodedata.category(c).startswith("P")
