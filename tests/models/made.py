"""Makes small corpora features and a tiny text encoder, for tests that train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from capture.features import audio, vision
from models.composed import SPLITS
from models.corpora import EMOTIONS

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##b", "c", "well", "no"]

# A network that trains in a blink. Settings for --set.
TINY = (
    "network.width=8",
    "network.heads=2",
    "network.levels=1",
    "network.memory_levels=1",
    "network.text={kernel=3,stride=4}",
    "network.audio={kernel=5,stride=20}",
    "network.vision={kernel=5,stride=20}",
    "optimisation.batch=8",
    "optimisation.epochs=2",
    "data.windows=16",
    "data.held=7",
)


def features(folder: Path, per_emotion: int = 2) -> Path:
    """Items of every emotion in every split; the emotion is the column, or the word piece, that is raised."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    labels = np.tile(np.repeat(np.arange(len(EMOTIONS)), per_emotion), len(SPLITS))
    for kind, columns, length in (("meld", 0, 6), ("ravdess", audio.SPEC.dim, 180), ("fer", 59, 1)):
        if kind == "meld":
            values = np.repeat(4 + labels[:, None], length, 1).astype(np.int32)
            values[:, 0], values[:, -1] = 2, 3
            flat = values.reshape(-1)
        else:
            rows = rng.uniform(0, 0.2, (len(labels), length, columns)).astype(np.float32)
            for item, label in enumerate(labels):
                rows[item, :, 3 * label] += 0.7
            if kind == "fer":
                rows[..., vision.PRESENCE] = 1
            flat = rows.reshape(-1, columns)
        np.savez(
            folder / f"{kind}.npz",
            values=flat,
            offsets=np.arange(len(labels) + 1) * length,
            labels=labels,
            splits=np.repeat(list(SPLITS.values()), per_emotion * len(EMOTIONS)),
            variants=np.zeros(len(labels), int),
            names=np.array([f"{kind}-{i}" for i in range(len(labels))]),
            fingerprints=np.arange(len(labels), dtype=np.uint32),
        )
    return folder


def encoder(folder: Path, width: int = 384, vocabulary: int = len(VOCABULARY)) -> Path:
    """A BERT of one layer with random weights, in Hugging Face's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)

    def random(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.normal(0, 0.05, shape).astype(np.float32)

    hidden, layer = 16, "encoder.layer.0."
    linear = {
        "attention.self.query": (width, width),
        "attention.self.key": (width, width),
        "attention.self.value": (width, width),
        "attention.output.dense": (width, width),
        "intermediate.dense": (hidden, width),
        "output.dense": (width, hidden),
    }
    state = {
        "embeddings.word_embeddings.weight": random(vocabulary, width),
        "embeddings.position_embeddings.weight": random(64, width),
        "embeddings.token_type_embeddings.weight": random(2, width),
    }
    for name, shape in linear.items():
        state |= {f"{layer}{name}.weight": random(*shape), f"{layer}{name}.bias": random(shape[0])}
    for name in ("embeddings", f"{layer}attention.output", f"{layer}output"):
        state |= {
            f"{name}.LayerNorm.weight": np.ones(width, np.float32),
            f"{name}.LayerNorm.bias": np.zeros(width, np.float32),
        }
    save_file(state, folder / "model.safetensors")
    config = {
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": VOCABULARY[i], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for i in range(5)
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [],
            "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in
                               (("[CLS]", 2), ("[SEP]", 3))},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {word: i for i, word in enumerate(VOCABULARY)}},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder
