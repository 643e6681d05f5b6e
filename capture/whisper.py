"""Whisper: loads faster-whisper's model, from this machine or once from the internet, and runs it."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capture.messages import Word
from capture.recogniser import RATE_HZ
from capture.trouble import SourceError

NEEDED = ("config.json", "model.bin", "tokenizer.json")
DEFAULT = "base"  # the size that is taken where none is asked for
SIZES = ("large-v3", "medium", "small", "base", "tiny")  # each smaller than the one before
SURE_OF_LANGUAGE = 0.8  # from here on the detected language is kept; detecting costs an encoder run

log = logging.getLogger(__name__)


class Whisper:
    """A loaded model; call it with samples.

    Args:
        model: a size ("tiny", "base", "small.en", ...), a model of the Hugging Face hub, or the folder
            of a CTranslate2 model.
        language: code such as "en"; None detects it.

    Raises:
        SourceError: ``no_whisper`` without faster-whisper, ``asset_missing`` without the model or where
            its files are not what their hashes say,
            ``bad_language`` for a code that the model does not know.
    """

    def __init__(self, model: str, language: str | None = None) -> None:
        if importlib.util.find_spec("faster_whisper") is None:
            raise SourceError(
                "no_whisper", "faster-whisper is not installed: pip install 'emotion-edge[whisper]'"
            )
        import ctranslate2

        cuda = ctranslate2.get_cuda_device_count() > 0
        self.device = "cuda" if cuda else "cpu"
        self.compute_type = "auto" if cuda else "int8"
        self._beam = 5 if cuda else 1
        self._model = _load(model, self.device, self.compute_type)
        if language is not None and language not in self._model.supported_languages:
            known = ", ".join(sorted(self._model.supported_languages))
            raise SourceError(
                "bad_language", f"--language {language!r} is not known to whisper {model}: use one of {known}"
            )
        self._language = language

    def __call__(self, samples: npt.NDArray[np.float32]) -> Sequence[Word]:
        """Words in ``samples`` (N,) at 16 kHz, times in nanoseconds from the first one."""
        seconds = len(samples) / RATE_HZ
        segments, info = self._model.transcribe(
            samples,
            language=self._language,
            beam_size=self._beam,
            temperature=0.0,  # no second and third try: the next hypothesis is a second away
            condition_on_previous_text=False,
            word_timestamps=True,
            max_new_tokens=min(200, 20 + int(10 * seconds)),  # nobody speaks faster; ends a loop early
        )
        words = [
            Word(
                word.word.strip(),
                round(word.start * 1e9),
                round(max(word.start, word.end) * 1e9),
                min(1.0, max(0.0, float(word.probability))),
            )
            for segment in segments
            for word in segment.words or ()
        ]
        if self._language is None and info.language_probability >= SURE_OF_LANGUAGE:
            self._language = info.language
        return words


def on_this_machine(model: str) -> bool:
    """Whether a model can be loaded without the internet."""
    from faster_whisper.utils import download_model

    if Path(model).expanduser().is_dir():
        return True
    try:
        download_model(model, local_files_only=True)
    except Exception:  # the hub's many ways to say that it is not there
        return False
    return True


def smaller_here(model: str) -> list[str]:
    """The smaller sizes of a model that are on this machine, the largest first; nothing is downloaded."""
    english = ".en" if model.endswith(".en") else ""
    size = model.removesuffix(".en")
    size = "large-v3" if size.startswith(("large", "turbo", "distil-large")) else size.removeprefix("distil-")
    smaller = SIZES[SIZES.index(size) + 1 :] if size in SIZES else ()
    return [name for one in smaller if on_this_machine(name := one + english)]


def _load(model: str, device: str, compute_type: str) -> Any:
    import faster_whisper
    from faster_whisper.utils import available_models, download_model

    folder = Path(model).expanduser()
    options = {
        "device": device,
        "compute_type": compute_type,
        "cpu_threads": min(4, os.cpu_count() or 1),
    }
    if folder.is_dir():
        missing = [name for name in NEEDED if not (folder / name).is_file()]
        if missing:
            raise SourceError(
                "asset_missing",
                f"{folder} has no {', '.join(missing)}: give the folder of a CTranslate2 Whisper model",
            )
        try:
            return faster_whisper.WhisperModel(str(folder), **options)
        except Exception as error:  # CTranslate2 and tokenizers raise bare RuntimeError and Exception
            raise SourceError("asset_missing", f"{folder} cannot be loaded: {_line(error)}") from error
    if model not in available_models() and (model.count("/") != 1 or model[0] in "/.~"):
        raise SourceError(
            "asset_missing",
            f"whisper {model!r} is neither a folder nor a known size: use one of "
            f"{', '.join(available_models())}",
        )
    try:
        return faster_whisper.WhisperModel(
            str(_checked(download_model(model, local_files_only=True))), **options
        )
    except SourceError:
        raise
    except Exception:  # whatever is missing or broken in the cache, the hub may mend it
        log.info("whisper %s is not on this machine, downloading it once", model)
    try:
        return faster_whisper.WhisperModel(str(_checked(download_model(model))), **options)
    except SourceError:
        raise
    except Exception as error:  # the hub, its http client and CTranslate2 share no base class
        raise SourceError(
            "asset_missing",
            f"whisper {model} is not on this machine and cannot be downloaded ({_line(error)}): connect to "
            f"the internet once, or give a folder with --asr whisper:FOLDER",
        ) from error


def _checked(folder: str) -> Path:
    """A model in the hub's cache, whose files lie under their hashes: SHA-256, or Git's for small ones.

    Raises:
        SourceError: ``asset_missing``, where a file is not what its hash says.
    """
    for path in sorted(Path(folder).iterdir()):
        expected = path.resolve().name
        if not path.is_symlink() or len(expected) not in (40, 64):
            continue
        found = _git_hash(path) if len(expected) == 40 else _sha256(path)
        if found != expected:
            raise SourceError(
                "asset_missing",
                f"{path.name} of whisper is damaged (hash {found[:12]}…, expected "
                f"{expected[:12]}…): remove {path.resolve()}, and it is downloaded anew",
            )
    return Path(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_hash(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
