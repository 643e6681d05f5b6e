#!/usr/bin/env python3
"""Make docs/message.md, the message reference, from runtime/schema/emotion-stream-1.json.

Names, types, limits and what is required are the schema's; what a field means is said here, in MEANING,
where the schema has no description. A field without a meaning, and a meaning without a field, is an error,
so that neither can be forgotten. The example is read from the bundled recording.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "runtime/schema/emotion-stream-1.json"
PAGE = ROOT / "docs/message.md"

Schema = dict[str, Any]

MEANING = {
    "Time.clock": "`monotonic`: a live session; `media`: the time of a file, which begins near 0",
    "Time.start_ns": "where the widest window of the three senses begins",
    "Time.end_ns": "where the window ends, for all senses",
    "Time.published_ns": "when it was stamped, on the same clock: just before it was put together and sent",
    "Time.wall": "the window's end as a date",
    "Modalities.text": "words, from a recogniser or from subtitles",
    "Modalities.audio": "the voice",
    "Modalities.vision": "the face",
    "Modality.present": "whether the network was given this sense",
    "Modality.coverage": "the share of the window's time that was observed; "
    "more than 0.2 s without a picture, or sound, was not",
    "Modality.lag_ms": "window end less the newest sample",
    "Modality.logits": "what this sense alone would say, before any softmax",
    "Modality.words": "how many words are in the window; what was said is in `words` messages, or nowhere",
    "Modality.reason": "why the sense is absent; the table below has the usual ones",
    "Latency.infer": "the network",
    "Latency.publish": "from the network's answer to the stamp, `published_ns`; encoding, sending come later",
    "Latency.total": "from the newest sample to the stamp, `published_ns`; the sum of the others",
    "Latency.capture": "from the sample to the feature code",
    "Latency.features": "computing the features",
    "Latency.window": "until the window was complete and its turn came; in a revision, also for its words",
    "Lost.text": "samples of sound that the recogniser did not hear (16,000 a second), and messages of words",
    "Lost.audio": "feature vectors of the voice lost (50 a second)",
    "Lost.vision": "pictures lost",
    "Lost.windows": "windows that were not inferred: too old, or given up in overload",
    "Model.name": "name of the network",
    "Model.hash": "hash over its weights and its manifest",
    "Model.features": "hash of the features that it was trained on",
    "Model.engine": "what runs it, such as `onnxruntime-cpu`",
    "Model.precision": "such as `fp32`",
    "Emotions.labels": "the classes, in the network's order",
    "Emotions.scores": "a probability for each label",
    "Emotions.top": "the label of the highest score",
    "Sentiment.value": "from negative to positive",
    "Sentiment.scale": "its ends",
    "Distillation.order": "six edges, `teacher->student`",
    "Distillation.homo": "strength of each edge in HomoGD, in that order",
    "Distillation.hetero": "strength of each edge in HeteroGD, in that order",
    "Emotion.seq": "number of the message in its session; a gap means that you lost some",
    "Emotion.state": "`ok`: all senses; `degraded`: one is missing; `abstain`: nothing to go by, or unsure",
    "Emotion.time": "which window",
    "Emotion.modalities": "each sense: there, or why not",
    "Emotion.latency_ms": "where the time went",
    "Emotion.dropped": "what was lost so far",
    "Emotion.model": "which network said so",
    "Emotion.revises": "the `seq` of the message that this one replaces",
    "Emotion.final": "`true`: no later message will replace this one; `false`: one will, with its late words",
    "Emotion.emotions": "of a network that tells classes",
    "Emotion.sentiment": "of a network that tells a value",
    "Emotion.distillation": "who taught whom; only of a network whose GD-Units were both trained",
    "SessionBegin.started": "when",
    "SessionBegin.clock": "as in Time",
    "SessionBegin.config": "every setting under its name",
    "SessionBegin.model": "which network",
    "SessionBegin.streams": "sense: hash of what its features are",
    "SessionBegin.sources": "sense: the device, file, recording or recogniser that it comes from",
    "SessionBegin.software": "name and version of the application",
    "SessionBegin.passed_over": "engine that was preferred: why it does not run",
    "StatusMessage.uptime_s": "seconds since the session began",
    "StatusMessage.senses": "sense: how it is",
    "StatusMessage.windows": "published so far",
    "StatusMessage.skipped": "windows that were not inferred, so far: too old, or given up in overload",
    "StatusMessage.engine": "what runs the network now",
    "StatusMessage.eased": "what is given up for now, for the machine cannot keep up; the first step first",
    "StatusMessage.revised": "what late words changed so far; absent before any",
    "StatusMessage.event": "what just happened, one line for a person",
    "SenseStatus.state": "`starting`, `ready`, `running`, `degraded`, `absent`, `ended` or `failed`",
    "SenseStatus.reason": "short and stable, for programs",
    "SenseStatus.detail": "one line for a person",
    "SenseStatus.produced": "samples so far",
    "SenseStatus.dropped": "samples lost, in the capture process and on the bus",
    "SenseStatus.gaps": "those of them that were lost on the bus",
    "SenseStatus.corrupt": "messages from its process, or to it, that could not be read",
    "SenseStatus.refused": "messages with other features than the network expects",
    "SenseStatus.restarts": "how often its process was started again",
    "SessionEnd.reason": "why it ended",
    "SessionEnd.duration_s": "how long it ran",
    "SessionEnd.windows": "published",
    "SessionEnd.skipped": "windows that were not inferred: too old, or given up in overload",
    "SessionEnd.senses": "sense: how it ended",
    "SessionEnd.revised": "what late words changed",
    "Revised.windows": "windows that were published again",
    "Revised.words_changed": "those of them with other words inside than at first",
    "Revised.answer_changed": "those of them with another top emotion, or a sentiment of another sign",
    "Revised.shift": "how far the scores moved where the words changed, on average (total variation)",
    "Revised.after_ms_p50": "from a window's end to its final message, median",
    "Revised.after_ms_p95": "the same, 95th percentile",
    "Face.seq": "number of the message among those of its kind",
    "Face.t_ns": "when it was seen, on the session's clock",
    "Face.present": "whether there was a face",
    "Face.blendshapes": "MediaPipe's 52 blendshapes, by name",
    "Face.head": "where the head points",
    "Head.pitch": "radians; positive looks down",
    "Head.yaw": "radians; positive turns to the right of the picture",
    "Head.roll": "radians; positive leans to the left of the picture",
    "Picture.t_ns": "when it was seen, on the session's clock",
    "Picture.width": "of the JPEG, pixels",
    "Picture.height": "of the JPEG, pixels",
    "Picture.jpeg": "the picture, base64",
    "Picture.landmarks": "MediaPipe's 478 points of the face, as shares of width and height",
    "Sound.t_ns": "when its first sample was heard, on the session's clock",
    "Sound.rate_hz": "samples a second",
    "Sound.pcm": "16-bit, little-endian, mono samples, base64",
    "Transcript.seq": "number of the message among those of its kind",
    "Transcript.until_ns": "every committed word that ends before this time has been sent",
    "Transcript.words": "newly committed words, then those that may still change, instead of the last such",
    "Said.text": "the word, as the recogniser writes it",
    "Said.start_ns": "on the session's clock",
    "Said.end_ns": "on the session's clock",
    "Said.committed": "`false`: provisional, and may still be taken back",
    "SessionEnd.latency_ms_p50": "median of the total latency",
    "SessionEnd.latency_ms_p95": "95th percentile of the total latency",
}
COMMON = {
    "type": "which message this is",
    "schema": "version of this format",
    "session": "name of the session, also part of the topic",
}
REASONS = {  # where each is given: capture/, runtime/windows.py, runtime/plan.py
    "no_face": "a face in less than a tenth of the window, or none in its last second",
    "no_speech": "less than 0.3 s of speech in the window",
    "no_words": "no word was recognised in the window",
    "starting": "its process is not ready yet",
    "no_device": "the camera or microphone is not there",
    "network_camera": "a network camera gives no sound, and so no words",
    "restarting": "its process ended, and is started again",
    "gave_up": "its process ended too often, and is not started again",
    "lagging": "the recogniser cannot keep up, and has not heard most of the window",
    "bad_language": "the recogniser does not know the language",
    "no_permission": "the device is there, and this user may not open it: `detail` has the remedy",
    "busy": "the camera or microphone is there, and another program uses it",
    "unsupported": "the microphone has none of the usual sample rates, channels or forms of samples",
    "no_frames": "the camera is open and gives no pictures",
    "no_sound": "the microphone gives no samples, and is opened anew; words: nothing to listen to",
    "frozen": "the camera gives the very same picture again and again",
    "eased": "the machine cannot keep up: less of this sense for now",
    "no_pyaudio": "the extra `mic` is not installed",
    "no_whisper": "the extra `whisper` is not installed",
    "asset_missing": "the face landmarker or the recogniser's model is not there and could not be downloaded",
    "asr_none": "nobody asked for words, or there is nothing to take them from",
    "switched_off": "the session was started without it (`--camera none`, `--microphone none`)",
    "no_video": "the file has no pictures",
    "no_audio": "the file has no sound",
    "no_samples": "nothing came for a second",
}


class SchemaMismatch(ValueError):
    """The schema and the meanings do not fit together."""


def page(schema: Schema) -> str:
    """The whole page as Markdown. Raises SchemaMismatch where schema and MEANING differ."""
    structs: Schema = schema["$defs"]
    _check_meanings(structs)
    messages = [_name(entry) for entry in schema["anyOf"]]
    parts = [name for name in structs if name not in messages]
    sections = [_HEAD, *(_section(name, structs[name]) for name in messages)]
    sections += [
        "## Parts\n\nWhat the messages are made of.",
        *(_section(name, structs[name]) for name in parts),
    ]
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in REASONS.items())
    sections.append(
        "## Why a sense is absent\n\nThe usual values of `reason`:\n\n"
        f"| reason | meaning |\n| --- | --- |\n{rows}"
    )
    sections.append(_example())
    return "\n\n".join(sections) + "\n"


_HEAD = """<!-- Made by build/message_reference.py from runtime/schema/emotion-stream-1.json: do not edit. -->
# Message reference

Each message has two parts, `[topic, JSON]`, on a ZeroMQ XPUB socket. The topic is `emotion.<session>.`,
so a subscription to `emotion` gets every session. What tells more of a person goes to topics of its own,
and only if the operator shares it: what was said to `words.<session>.` (`--share-words`, or a page), the
face in numbers to `face.<session>.` (`--share-face`, or a page), pictures and sound to `raw.<session>.`
(`--share-raw`). This page is made from [the JSON schema](../runtime/schema/emotion-stream-1.json), which
your own tests can use, too. A field that does not apply is absent, never zero:
ask whether it is there. New fields may come; ignore those that you do
not know.

*Always* means that the field is in every message of this kind. `_ns` is nanoseconds, `_ms`
milliseconds, `_s` seconds."""


def _section(name: str, struct: Schema) -> str:
    kind = struct["properties"].get("type", {}).get("enum")
    title = f"## `{kind[0]}`" if kind else f"### {name}"
    said = " ".join(struct["description"].split()).replace("``", "`")
    lines = [title, "", said, "", "| field | type | always | meaning |", "| --- | --- | --- | --- |"]
    required = {*struct["required"], *(("schema",) if kind else ())}
    for field, value in struct["properties"].items():
        always = "yes" if field in required or "default" in value else ""
        lines.append(f"| `{field}` | {_type(value)} | {always} | {_meaning(name, field, value)} |")
    return "\n".join(lines)


def _type(value: Schema) -> str:
    """A JSON schema's type in words, with its limits."""
    if "$ref" in value:
        return f"[{_name(value)}](#{_name(value).lower()})"
    if "enum" in value:
        return " or ".join(f"`{json.dumps(item)}`" for item in value["enum"])
    if "anyOf" in value:
        return " or ".join(_type(item) for item in value["anyOf"])
    words = {"integer": "whole number", "boolean": "true or false", "string": "text", "null": "`null`"}
    kind: str = words.get(value["type"], value["type"])
    if value.get("format") == "date-time":
        return "date (RFC 3339, UTC)"
    if "minimum" in value:
        kind += (
            f", {value['minimum']} to {value['maximum']}"
            if "maximum" in value
            else f", {value['minimum']} or more"
        )
    if value["type"] == "array":
        items = value.get("prefixItems")
        return f"[{', '.join(map(_type, items))}]" if items else f"list of {_type(value['items'])}"
    if value["type"] == "object" and "additionalProperties" in value:
        return f"object: name → {_type(value['additionalProperties'])}"
    return kind


def _name(entry: Schema) -> str:
    return str(entry["$ref"]).rpartition("/")[2]


def _meaning(struct: str, field: str, value: Schema) -> str:
    return MEANING.get(f"{struct}.{field}") or COMMON.get(field) or str(value["description"])


def _check_meanings(structs: Schema) -> None:
    fields = {
        f"{name}.{field}": value
        for name, struct in structs.items()
        for field, value in struct["properties"].items()
    }
    for name, value in fields.items():
        if name not in MEANING and name.partition(".")[2] not in COMMON and "description" not in value:
            raise SchemaMismatch(
                f"{name} is in the schema and has no meaning: say it in MEANING of {__file__}"
            )
    if unknown := sorted(MEANING.keys() - fields.keys()):
        raise SchemaMismatch(
            f"{unknown[0]} has a meaning and is not in the schema: remove it from {__file__}"
        )


def _example() -> str:
    """One ``emotion`` of the bundled recording, as it went out."""
    sys.path.insert(0, str(ROOT))
    from runtime.plan import DEMO
    from runtime.recording import Recording
    from runtime.stream import decode

    payloads = [payload for _, payload in Recording.open(DEMO).emotions()]
    whole = next(payload for payload in payloads if json.loads(payload)["state"] == "ok")
    decode(whole)
    text = json.dumps(json.loads(whole), indent=1)
    for opening in ("scores", "labels", "logits", "order", "homo", "hetero"):  # lists on one line
        text = _flat(text, opening)
    intro = "## An example\n\nAn `emotion` of the bundled recording, with line breaks added:"
    return f"{intro}\n\n```json\n{text}\n```"


def _flat(text: str, field: str) -> str:
    start = f'"{field}": ['
    head, *rest = text.split(start)
    for piece in rest:
        inside, _, after = piece.partition("]")
        head += start + " ".join(inside.split()) + "]" + after
    return head


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python build/message_reference.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit status: 0; 1: the page is not up to date; 2: the schema cannot be used; 130: stopped.",
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--write", action="store_true", help="write the page")
    how.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    parser.add_argument("--schema", type=Path, default=SCHEMA, help="default: %(default)s")
    parser.add_argument("--page", type=Path, default=PAGE, help="default: %(default)s")
    options = parser.parse_args()
    try:
        wanted = page(json.loads(options.schema.read_bytes()))
        found = options.page.read_text() if options.page.exists() else ""
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}: expected the stream's JSON schema and a page")
    except (SchemaMismatch, json.JSONDecodeError, KeyError) as error:
        parser.error(f"{options.schema} cannot be made into a reference: {error}")
    if options.write and wanted != found:
        options.page.write_text(wanted)
        print(f"wrote {options.page}")
    elif wanted != found:
        print(f"{options.page} is not up to date: python build/message_reference.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
