"""The bundled text encoder is small, knows what sentences mean, and does not care how they are batched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from tokenizers import Tokenizer

from models import text_encoder

BUNDLE = Path(text_encoder.__file__).parent / "pretrained"
Encode = tuple[ort.InferenceSession, Tokenizer]


@pytest.fixture(scope="module")
def encoder() -> Encode:
    session = ort.InferenceSession(BUNDLE / "text_encoder.onnx", providers=["CPUExecutionProvider"])
    return session, Tokenizer.from_file(str(BUNDLE / "tokenizer.json"))


def _embed(encoder: Encode, sentence: str) -> npt.NDArray[np.float32]:
    """(S, 384) word pieces."""
    session, tokenizer = encoder
    ids = np.array([tokenizer.encode(sentence).ids], np.int64)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return np.asarray(session.run(["embeddings"], feed)[0][0], np.float32)


def _likeness(encoder: Encode, one: str, other: str) -> float:
    a, b = _embed(encoder, one).mean(0), _embed(encoder, other).mean(0)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize(
    ("sentence", "alike", "different"),
    [
        ("I am so happy today", "What a joyful day for me", "The train leaves at seven"),
        ("He is crying", "Tears run down his face", "She bought a new laptop"),
        ("Leave me alone, I hate you", "Go away, I can't stand you", "Please pass me the salt"),
    ],
)
def test_sentences_that_mean_the_same_are_nearer(
    encoder: Encode, sentence: str, alike: str, different: str
) -> None:
    assert _likeness(encoder, sentence, alike) > _likeness(encoder, sentence, different) + 0.1


def test_every_word_piece_has_its_embedding(encoder: Encode) -> None:
    pieces = encoder[1].encode("And so my fellow Americans").tokens
    embeddings = _embed(encoder, "And so my fellow Americans")
    assert pieces[0] == "[CLS]" and pieces[-1] == "[SEP]"
    assert embeddings.shape == (len(pieces), 384)
    assert embeddings.dtype == np.float32


def test_padding_that_is_masked_changes_little(encoder: Encode) -> None:
    session, tokenizer = encoder
    ids = np.array([tokenizer.encode("I did not expect that").ids], np.int64)
    mask = np.ones_like(ids)
    (alone,) = session.run(["embeddings"], {"input_ids": ids, "attention_mask": mask})
    padding = np.zeros((1, 5), np.int64)
    padded = {
        "input_ids": np.concatenate([ids, padding], 1),
        "attention_mask": np.concatenate([mask, padding], 1),
    }
    (with_padding,) = session.run(["embeddings"], padded)
    a, b = alone[0], with_padding[0, : ids.shape[1]]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.95  # int8 activations are scaled by the whole input, so not exactly 1


def test_the_tokenizer_neither_pads_nor_cuts(encoder: Encode) -> None:
    tokenizer = encoder[1]
    assert tokenizer.padding is None and tokenizer.truncation is None
    assert len(tokenizer.encode("well " * 600).ids) == 602


def test_the_bundle_stays_small() -> None:
    size = sum((BUNDLE / name).stat().st_size for name in ("text_encoder.onnx", "tokenizer.json"))
    assert size < 25e6


def test_a_source_without_an_encoder_is_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["--source", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]
    assert text_encoder.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
