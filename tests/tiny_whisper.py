"""A real CTranslate2 Whisper with one layer and random weights; it hears words of its own.

``python -m tests.tiny_whisper FOLDER`` writes it for who wants ``--asr whisper:FOLDER`` without a download.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ctranslate2
import numpy as np
import numpy.typing as npt
import tokenizers


def make(folder: Path) -> Path:
    """Write the model into a folder, and return that."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["�", *(f" word{i}" for i in range(40)), "<|endoftext|>", "<|startoftranscript|>"]
    vocabulary += [f"<|{name}|>" for name in ("en", "translate", "transcribe", "startoflm", "startofprev")]
    vocabulary += ["<|nospeech|>", "<|notimestamps|>", *(f"<|{i * 0.02:.2f}|>" for i in range(1501))]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="�")
    )
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))

    width, mels, rng = 32, 80, np.random.default_rng(0)
    spec = ctranslate2.specs.WhisperSpec(1, 2, 1, 2)

    def weights(*shape: int, scale: float = 0.3) -> npt.NDArray[np.float32]:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    def linear(part: object, outputs: int, inputs: int) -> None:
        part.weight, part.bias = weights(outputs, inputs), weights(outputs)  # type: ignore[attr-defined]

    def norm(part: object) -> None:
        part.gamma, part.beta = np.ones(width, np.float32), np.zeros(width, np.float32)  # type: ignore[attr-defined]

    def layer(part: object, cross: bool) -> None:
        attentions = [(part.self_attention, (3 * width, width))]  # type: ignore[attr-defined]
        if cross:
            attentions.append((part.attention, (width, 2 * width, width)))  # type: ignore[attr-defined]
        for attention, sizes in attentions:
            norm(attention.layer_norm)
            for one, outputs in zip(attention.linear, sizes, strict=True):
                linear(one, outputs, width)
        norm(part.ffn.layer_norm)  # type: ignore[attr-defined]
        linear(part.ffn.linear_0, 2 * width, width)  # type: ignore[attr-defined]
        linear(part.ffn.linear_1, width, 2 * width)  # type: ignore[attr-defined]

    spec.encoder.conv1.weight, spec.encoder.conv1.bias = weights(width, mels, 3), weights(width)
    spec.encoder.conv2.weight, spec.encoder.conv2.bias = weights(width, width, 3), weights(width)
    spec.encoder.position_encodings.encodings = weights(1500, width)
    norm(spec.encoder.layer_norm)
    layer(spec.encoder.layer[0], cross=False)
    spec.decoder.embeddings.weight = weights(len(vocabulary), width)
    spec.decoder.position_encodings.encodings = weights(448, width)
    norm(spec.decoder.layer_norm)
    layer(spec.decoder.layer[0], cross=True)
    linear(spec.decoder.projection, len(vocabulary), width)
    bias = np.full(len(vocabulary), -20, np.float32)  # or 1501 time stamps outweigh 40 words
    bias[1:41], bias[41], bias[-1501:] = 8.0, 6.0, -4.0
    spec.decoder.projection.bias = bias
    spec.register_vocabulary(vocabulary)
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = []
    spec.config.lang_ids = []
    spec.config.alignment_heads = [[0, 0], [0, 1]]
    spec.validate()
    spec.optimize()
    spec.save(str(folder))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": mels}))
    return folder


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
