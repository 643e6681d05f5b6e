"""Word embeddings of clips, by a bundle's own text encoder, kept on disk: a sentence is encoded only once.

The encoder runs as it does live (``runtime.engines.onnx``): one sentence at a time, on one thread.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from pathlib import Path

import numpy as np
import onnxruntime as ort

from capture.features.wordpiece import WordPiece
from models.data import F32, DataError

log = logging.getLogger(__name__)

ENCODER = "text_encoder.onnx"
TOKENIZER = "tokenizer.json"


class WordEmbeddings:
    """Sentences to embeddings, the newest ``steps`` word pieces of each.

    bundle: folder of ``text_encoder.onnx`` and ``tokenizer.json``. store: folder where they are kept.

    Raises DataError where the bundle has no encoder.
    """

    def __init__(self, bundle: Path, steps: int, store: Path) -> None:
        try:
            encoder, tokenizer = (bundle / ENCODER).read_bytes(), (bundle / TOKENIZER).read_bytes()
        except OSError as error:
            raise DataError(
                f"{error.filename}: {error.strerror}: expected a network's {ENCODER} and {TOKENIZER}"
            ) from None
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._encoder = ort.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own errors share no public base
            raise DataError(f"{bundle / ENCODER} does not load: {error}") from None
        self._tokenizer = WordPiece(bundle / TOKENIZER)
        self._steps = steps
        self.dim = int(self._encoder.get_outputs()[0].shape[-1])
        made_by = hashlib.sha256(encoder + tokenizer).hexdigest()[:12]
        self._kept = _open(store / f"embeddings-{made_by}-{steps}.sqlite")

    def of(self, sentence: str) -> F32:
        """Embeddings (S, dim) of a sentence, S at most ``steps``."""
        found = self._kept.execute("SELECT value FROM said WHERE sentence = ?", (sentence,)).fetchone()
        if found is not None:
            return np.frombuffer(found[0], np.float32).reshape(-1, self.dim)
        ids = np.array([self._tokenizer.encode(sentence)[-self._steps :]], np.int64)  # (1, S)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        value = np.asarray(self._encoder.run(["embeddings"], feed)[0][0], np.float32)  # (S, dim)
        self._kept.execute("INSERT OR IGNORE INTO said VALUES (?, ?)", (sentence, value.tobytes()))
        return value


def _open(path: Path) -> sqlite3.Connection:
    """Open the store; a damaged one is made anew, and one that cannot be written lives in memory."""
    try:
        return _prepared(sqlite3.connect(path, timeout=30, isolation_level=None))
    except sqlite3.OperationalError as error:  # a folder that cannot be written, or a locked file
        log.warning("%s: %s: embeddings are not kept", path, error)
    except sqlite3.DatabaseError:
        path.unlink()
        return _open(path)
    return _prepared(sqlite3.connect(":memory:", isolation_level=None))


def _prepared(store: sqlite3.Connection) -> sqlite3.Connection:
    store.execute("PRAGMA synchronous = OFF")  # it can be made again
    store.execute("CREATE TABLE IF NOT EXISTS said (sentence TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
    return store
