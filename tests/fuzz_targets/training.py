"""What training and evaluation read: data sets, tables, configurations, weights and reports."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tomli_w
import torch

from capture.features import audio, vision
from models import (
    array_pickle,
    baseline,
    checkpoint,
    composed,
    corpora,
    mmsa,
    tables,
    text_encoder,
    verify_reference,
)
from models import config as training
from models.array_pickle import unwrapped
from models.clip_index import Clip, Index, TimedWord, read_index, read_rows
from models.clip_table import labels_of, read_table
from models.data import DataError
from models.dmd import DMD, DMDConfig, InputConfig
from models.train import overridden
from tests.models import made
from tests.mutation import Target

TABLE = (
    b'path,text,label,group,split,start_s,end_s\na.wav,"so, my",joy,g,train,0,1.5\n'
    b"a.wav,fellow,anger,h,test,2,\n"
)
SENTIMENTS = b"path,text,label\na.wav,so,-1.5\n"
MELD = (
    b"Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID\n"
    b'1,"also I was, the point\x92 person",Chandler,neutral,neutral,0,0\n2,Oh,Joey,joy,positive,10,1\n'
)
SETTINGS = (b"optimisation.rate=1e-3", b"network.text.dim=384", b"name=x", b"text_encoder.source=a")
REPORT = b'{"splits": {"test": {"accuracy": 0.5, "f1": 0.25}}}'
AUTHORS = {  # the smallest network, in the authors' words
    "feature_dims": [2, 2, 2], "dst_feature_dim_nheads": [4, 2], "nlevels": 1, "attn_mask": True,
    "len_l": 4, "len_v": 4, "len_a": 4, "conv1d_kernel_size_l": 2, "conv1d_kernel_size_v": 2,
    "conv1d_kernel_size_a": 2, "attn_dropout": 0.0, "attn_dropout_v": 0.0, "attn_dropout_a": 0.0,
    "text_dropout": 0.0, "embed_dropout": 0.0, "relu_dropout": 0.0, "res_dropout": 0.0, "output_dropout": 0.0,
    "gd_size_homo": 64, "gd_size_hetero": 32, "gd_alpha": 0.125, "prior_logits_homo": [0, 0, 1, 0, 1, 0],
    "prior_logits_hetero": [0, 0, 1, 0, 1, 1], "prior_temperature": 0.25, "w_losses": [1, 1], "gd_reg": 10,
}  # fmt: skip
Writes = Callable[..., Callable[[bytes], object]]


def targets(folder: Path, in_file: Writes) -> tuple[Target, ...]:
    js: dict[str, Any] = {"loads": json.loads, "dumps": lambda value: json.dumps(value).encode()}
    packed: dict[str, Any] = {"loads": _loads_npz, "dumps": _dumps_npz}
    toml: dict[str, Any] = {
        "loads": msgspec.toml.decode,
        "dumps": lambda value: tomli_w.dumps(value).encode(),
    }
    configs = tuple(
        path.read_bytes() for path in sorted(Path(training.__file__).parent.glob("configs/*.toml"))
    )
    plain = training.Training(training.DataConfig("mmsa", "a.pkl"))
    bad = (checkpoint.BadCheckpoint,)
    torch.set_num_threads(1)
    network, weights, authors, reference = _networks(folder)
    index, arrays, clip = _clips(folder / "clips")
    bert, other_bert = (made.encoder(folder / name, width=8) for name in ("bert", "other-bert"))
    bert_config, bert_weights = bert / "config.json", other_bert / "model.safetensors"
    corpus = made.features(folder / "corpora", per_emotion=1) / "fer.npz"
    sound = folder / "table/a.wav"
    sound.parent.mkdir()
    sound.touch()
    return (
        # models.config: the TOML file of a training, and --set NAME=VALUE over it
        Target(
            "training configuration", configs, in_file("t.toml", lambda p: training.check(training.load(p))),
            (training.ConfigError,), **toml, tries=150,
        ),
        Target(
            "training --set", SETTINGS,
            lambda data: overridden(plain, [data.decode(errors="surrogateescape")]), (training.ConfigError,),
        ),
        # models.array_pickle and models.mmsa: pickles of arrays, never run; and the data sets in them
        Target("pickled arrays", _pickles(), in_file("a.pkl", _unpickled), (DataError,), tries=60),
        Target("MMSA data", _mmsa(), in_file("a.pkl", _windows), (DataError,), tries=60),
        # models.clip_table, clip_index: LABELS.csv, clips.json, clips/ID.npz; models.corpora: MELD's lines
        Target(
            "table of clips", (TABLE, SENTIMENTS), in_file("l.csv", lambda p: _table(p, sound.parent)),
            (DataError,), tries=150,
        ),
        Target(
            "index of clips", (index.read_bytes(),), _over(index, lambda: read_index(index.parent)),
            (DataError,), **js, tries=150,
        ),
        Target(
            "features of a clip", (arrays.read_bytes(),),
            _over(arrays, lambda: read_rows(index.parent, clip)), (DataError,), **packed, tries=60,
        ),
        Target("MELD's lines", (MELD,), in_file("dev_sent_emo.csv", corpora.meld), (DataError,), tries=150),
        # models.composed, baseline: arrays of corpora, and beside a network what it was trained on
        Target(
            "features of a corpus", (corpus.read_bytes(),),
            _over(corpus, lambda: composed.load(corpus.parent, "fer", "train")), (DataError,), **packed,
            tries=60,
        ),
        Target(
            "what was trained on", (npz(ravdess=np.arange(9, dtype=np.uint32)),),
            in_file(composed.TRAINED_ON, lambda p: composed.known(p.parent)), (DataError,), **packed,
            tries=60,
        ),
        Target(
            "baseline", (npz(**{"audio/weights": np.ones((7, 4), np.float32), "audio/bias": np.ones(7)}),),
            in_file(baseline.FILE, lambda p: baseline.load(p.parent)), (DataError,), **packed, tries=60,
        ),
        # models.checkpoint: network.json, network.safetensors, the authors' .pth; models.verify_reference
        Target(
            "network description", (network.read_bytes(),),
            _over(network, lambda: checkpoint.load(network.parent)), bad, **js, tries=10,
        ),
        Target(
            "network weights", (weights.read_bytes(),),
            _over(weights, lambda: checkpoint.load(weights.parent)), bad, tries=10,
        ),
        Target("authors' weights", (authors,), in_file("dmd.pth", _authors), bad, tries=15),
        Target(
            "reference file", (reference,), in_file("r.npz", verify_reference.verify), (*bad, DataError),
            tries=4,
            whole=False,
        ),
        # models.text_encoder: a pretrained BERT in Hugging Face's layout
        Target(
            "text encoder description", (bert_config.read_bytes(),),
            _over(bert_config, lambda: text_encoder.load(bert)), (KeyError, ValueError), **js, tries=15,
        ),
        Target(
            "text encoder weights", (bert_weights.read_bytes(),),
            _over(bert_weights, lambda: text_encoder.load(other_bert)), (KeyError, ValueError), tries=15,
        ),
        # models.tables: the report of a run that is done
        Target(
            "report of a run", (REPORT,), in_file("report.json", lambda p: tables.finished(p.parent)),
            (training.ConfigError,), **js, tries=150,
        ),
    )  # fmt: skip


def _over(path: Path, run: Callable[[], object]) -> Callable[[bytes], object]:
    def written(data: bytes) -> object:
        path.write_bytes(data)
        return run()

    return written


def _networks(folder: Path) -> tuple[Path, Path, bytes, bytes]:
    """Two copies of the smallest network, the file of each that is damaged; and it in the authors' names."""
    small = InputConfig(2, 4, 2)
    config = DMDConfig(small, small, small, outputs=1, width=4, heads=2, levels=1)
    model = DMD(config)
    for name in ("description", "weights"):
        checkpoint.save(model, folder / name)
    states: dict[str, dict[str, torch.Tensor]] = {"dmd": {}, "homo_gd": {}, "hetero_gd": {}}
    for name, value in model.named_parameters():
        if (place := checkpoint.authors_name(name)) is not None:
            states[place[0]][place[1]] = value.detach().clone()
    file = io.BytesIO()
    torch.save(states["dmd"], file)
    arrays = {f"state/{net}/{key}": v.numpy() for net, state in states.items() for key, v in state.items()}
    arrays |= {f"input/{sense}": np.ones((2, 4, 2), np.float32) for sense in ("text", "audio", "vision")}
    reference = npz(
        **arrays, **{"input/labels": np.ones((2, 1), np.float32)}, config=np.array(json.dumps(AUTHORS))
    )
    return (
        folder / "description" / checkpoint.DESCRIPTION,
        folder / "weights" / checkpoint.WEIGHTS,
        file.getvalue(),
        reference,
    )


def _authors(path: Path) -> None:
    checkpoint.load_authors_pth(path, heads=2)


def _clips(folder: Path) -> tuple[Path, Path, Clip]:
    """An index of one clip, and its features."""
    clip = Clip("a", "a.wav", "joy", "train", "so", (TimedWord("so", 9),), 0, 10**9, 1.0, 3, 2)
    (folder / "clips").mkdir(parents=True)
    index, arrays = folder / "clips.json", folder / "clips/a.npz"
    index.write_bytes(msgspec.json.encode(Index(audio.SPEC.hash, vision.SPEC.hash, (clip,))))
    rows = {"audio_ns": np.arange(3), "audio": np.ones((3, audio.SPEC.dim), np.float32)}
    rows |= {"vision_ns": np.arange(2), "vision": np.ones((2, vision.SPEC.dim), np.float32)}
    arrays.write_bytes(npz(**rows))
    return index, arrays, clip


def _loads_npz(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data)) as stored:
        return {name: stored[name].tolist() for name in stored.files}


def _dumps_npz(value: Any) -> bytes:
    return npz(**{name: np.array(one) for name, one in value.items()})


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _table(path: Path, clips: Path) -> None:
    rows, _ = read_table(path, clips)
    labels_of(rows, path, "auto")


def _pickles() -> tuple[bytes, ...]:
    import pickle  # written here, and read by the restricted reader alone

    whole = {"train": {"text": np.ones((2, 3, 4), np.float32), "id": ["a$_$1", "b$_$2"], "n": [3, 2]}}
    return tuple(pickle.dumps(whole, protocol) for protocol in (2, 4, 5))


def _unpickled(path: Path) -> None:
    found = array_pickle.load(path)
    if isinstance(found, dict):
        for value in found.values():
            unwrapped(value)


def _mmsa() -> tuple[bytes, ...]:
    import pickle

    bert = np.stack([np.full((2, 4), 7), np.ones((2, 4)), np.zeros((2, 4))], axis=1).astype(np.float32)
    split = {
        "text": np.ones((2, 4, 3), np.float32), "text_bert": bert,
        "audio": np.ones((2, 5, 2), np.float32), "audio_lengths": [5, 3],
        "vision": np.ones((2, 6, 2)), "vision_lengths": [1, 6],
        "regression_labels": np.array([0.5, -1.0], np.float32), "id": ["a$_$1", "b$_$2"],
    }  # fmt: skip
    whole = dict.fromkeys(("train", "valid", "test"), split)
    return tuple(pickle.dumps(whole, protocol) for protocol in (2, 4, 5))


def _windows(path: Path) -> None:
    """The data set in each of the ways that a training reads it, and a batch of it."""
    for text in ("features", "pieces"):
        data = mmsa.open_mmsa(path, text, masks=True)  # type: ignore[arg-type]
        next(iter(data.batches("train", 2, 0)), None)
