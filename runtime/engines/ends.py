"""Ends: what every engine has around DMD's graph — the words' embeddings before, the prediction after.

The text encoder is a graph of its own in ONNX Runtime, and runs only when the words have changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from capture.features.wordpiece import WordPiece
from capture.messages import STREAMS
from runtime.engine import EngineAbsent, EngineError, Prediction
from runtime.network import Network
from runtime.windows import SenseWindow, Window

Tensors = Mapping[str, npt.NDArray[Any]]  # of the graph, by name; the first axis is the batch

OUTPUTS = ("logits", "text_logits", "audio_logits", "vision_logits", "homo_edges", "hetero_edges")


class Ends:
    """The text encoder and the calibration of one network.

    Raises EngineError where the text encoder does not load, EngineAbsent for ``cuda`` without it.
    """

    def __init__(self, network: Network, *, cuda: bool = False, threads: int = 1) -> None:
        self._network = network
        self._encoder = session(network, network.file("text_encoder.onnx"), cuda=cuda, threads=threads)
        self._tokenizer = WordPiece(network.file("tokenizer.json"))
        self._text: tuple[str, npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None

    def feed(self, window: Window) -> dict[str, npt.NDArray[np.float32]]:
        """The graph's inputs for one window, a batch of one."""
        text, text_mask = self.embed(window.text)
        return {
            "text": text[None],  # (1, T_l, 384)
            "audio": window.audio.values[None],  # (1, T_a, 42)
            "vision": window.vision.values[None],  # (1, T_v, 59)
            "text_mask": text_mask[None],
            "audio_mask": window.audio.mask[None],
            "vision_mask": window.vision.mask[None],
        }

    def prediction(self, window: Window, outputs: Tensors) -> Prediction:
        """What the graph's ``OUTPUTS`` for that window mean; their arrays are copied."""
        first = {name: np.array(outputs[name][0], np.float32) for name in OUTPUTS}
        return Prediction(
            output=self.calibrated(first["logits"], window),
            logits={sense: first[f"{sense}_logits"] for sense in STREAMS},
            homo_edges=first["homo_edges"],
            hetero_edges=first["hetero_edges"],
        )

    def calibrated(self, logits: npt.NDArray[np.float32], window: Window) -> npt.NDArray[np.float32]:
        """Fused logits (K,) as probabilities, by the temperature for this window's senses, or as they are."""
        manifest = self._network.manifest
        if manifest.task != "classification":
            return logits
        present = {
            "text": any(word.text for word in window.text.words),
            "audio": window.audio.present,
            "vision": window.vision.present,
        }
        heat = manifest.temperature_of([sense for sense, there in present.items() if there])
        return softmax(logits / heat)

    def embed(self, sense: SenseWindow) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The window's words as (steps, dim) embeddings and their (steps,) mask, right-aligned."""
        spec = self._network.features.text
        sentence = " ".join(word.text for word in sense.words)
        if self._text is None or self._text[0] != sentence:
            values = np.zeros((spec.steps, spec.dim), np.float32)
            mask = np.zeros(spec.steps, np.float32)
            if sentence:
                ids = np.array([self._tokenizer.encode(sentence)[-spec.steps :]], np.int64)
                (embeddings,) = self._encoder.run(
                    ["embeddings"], {"input_ids": ids, "attention_mask": np.ones_like(ids)}
                )
                values[-ids.shape[1] :] = embeddings[0]
                mask[-ids.shape[1] :] = 1
            self._text = sentence, values, mask
        return self._text[1], self._text[2]


def has_cuda() -> bool:
    """Whether this ONNX Runtime can use an NVIDIA GPU."""
    return "CUDAExecutionProvider" in ort.get_available_providers()


def session(network: Network, graph: Any, *, cuda: bool = False, threads: int = 1) -> ort.InferenceSession:
    """An ONNX Runtime session for a graph (a path, or its bytes) of ``network``. Raises EngineError."""
    if cuda and not has_cuda():
        raise EngineAbsent(
            "onnxruntime-cuda: this ONNX Runtime has no CUDA: pip install onnxruntime-gpu, "
            "or choose --engine onnxruntime-cpu"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning thread pool would take the core that the face landmarker needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if cuda else ["CPUExecutionProvider"]
    try:
        opened = ort.InferenceSession(graph, options, providers=providers)
    except Exception as error:  # ONNX Runtime's own errors share no public base
        raise EngineError(f"the network in {network.folder} does not load: {error}") from error
    if providers[0] not in opened.get_providers():  # without a word, it takes the next
        raise EngineError(
            "onnxruntime-cuda: CUDA does not start here, ONNX Runtime fell back to the CPU: "
            "look at its driver and libraries, or choose --engine onnxruntime-cpu"
        )
    return opened


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities of (K,) logits."""
    exponents = np.exp(logits - logits.max())
    return np.asarray(exponents / exponents.sum(), np.float32)
