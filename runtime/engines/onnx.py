"""ONNX Runtime engine: runs everywhere, on the CPU or through CUDA."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from capture.features.wordpiece import WordPiece
from capture.messages import STREAMS
from runtime.engine import EngineError, Prediction
from runtime.network import Network
from runtime.windows import SenseWindow, Window


def has_cuda() -> bool:
    """Whether this ONNX Runtime can use an NVIDIA GPU."""
    return "CUDAExecutionProvider" in ort.get_available_providers()


class OnnxEngine:
    """Two sessions: the text encoder, run only when the words change, and DMD.

    Args:
        network: a checked bundle.
        cuda: run on the GPU; raises EngineError where ONNX Runtime has no CUDA.
        threads: of each operator; one leaves the other cores to the capture processes.
    """

    def __init__(self, network: Network, *, cuda: bool = False, threads: int = 1) -> None:
        if cuda and not has_cuda():
            raise EngineError(
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
            self._dmd = ort.InferenceSession(network.file("network.onnx"), options, providers=providers)
            self._encoder = ort.InferenceSession(
                network.file("text_encoder.onnx"), options, providers=providers
            )
        except Exception as error:  # ONNX Runtime's own errors share no public base
            raise EngineError(f"the network in {network.folder} does not load: {error}") from error
        self._tokenizer = WordPiece(network.file("tokenizer.json"))
        self._network = network
        self._text: tuple[str, npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
        self.name = "onnxruntime-cuda" if cuda else "onnxruntime-cpu"

    def infer(self, window: Window) -> Prediction:
        """Run the network on one window (batch of one)."""
        text, text_mask = self._embed(window.text)
        outputs = self._dmd.run(
            ["logits", "text_logits", "audio_logits", "vision_logits", "homo_edges", "hetero_edges"],
            {
                "text": text[None],  # (1, T_l, 384)
                "audio": window.audio.values[None],  # (1, T_a, 42)
                "vision": window.vision.values[None],  # (1, T_v, 59)
                "text_mask": text_mask[None],
                "audio_mask": window.audio.mask[None],
                "vision_mask": window.vision.mask[None],
            },
        )
        fused, *unimodal, homo_edges, hetero_edges = (output[0] for output in outputs)
        manifest = self._network.manifest
        classifies = manifest.task == "classification"
        present = {"text": text_mask.any(), "audio": window.audio.present, "vision": window.vision.present}
        heat = manifest.temperature_of([sense for sense, there in present.items() if there])
        return Prediction(
            output=softmax(fused / heat) if classifies else fused,
            logits=dict(zip(STREAMS, unimodal, strict=True)),
            homo_edges=homo_edges,
            hetero_edges=hetero_edges,
        )

    def _embed(self, sense: SenseWindow) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
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


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities of (K,) logits."""
    exponents = np.exp(logits - logits.max())
    return np.asarray(exponents / exponents.sum(), np.float32)
