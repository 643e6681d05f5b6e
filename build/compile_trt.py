#!/usr/bin/env python3
"""A trained network becomes the fastest verified engine for this machine.

What this machine has decides: TensorRT on a Jetson or a server, TensorRT-RTX on a desktop with an RTX
GPU (it builds without one, too), ONNX Runtime everywhere. The engine is a folder with two files, `engine`
and `manifest.json`, written beside its place and renamed: whatever happens, there is never half of one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape

sys.path.insert(0, str(Path(__file__).parent.parent))

from capture.features.spec import SpecMismatch
from runtime import network as networks
from runtime.engine import EngineAbsent, EngineError
from runtime.engines import artefact, compiler, verify
from runtime.engines.artefact import BACKENDS, ENGINE, PRECISIONS, Backend, Manifest, Wanted
from runtime.engines.compiler import Impossible, Recipe
from runtime.engines.cuda import Device
from runtime.engines.libraries import MissingLibrary, WrongGPU, WrongVersion, gpu_or_none, library
from runtime.engines.progress import Phases, Shown
from runtime.engines.tensorrt import Runner
from runtime.engines.trt_build import BuildError, NoMemory
from runtime.engines.worker import Interrupted
from runtime.network import Network, NetworkError

TOO_FAR, UNUSABLE, NO_LIBRARY, NO_GPU, NO_MEMORY, NOT_BUILT, STOPPED = 1, 2, 3, 4, 5, 6, 130
STATUS: tuple[tuple[type[Exception], int], ...] = (  # the first that fits
    (Interrupted, STOPPED),
    (Impossible, UNUSABLE),
    (NoMemory, NO_MEMORY),
    (BuildError, NOT_BUILT),
    (MissingLibrary, NO_LIBRARY),
    (WrongVersion, NO_LIBRARY),
    (WrongGPU, NO_GPU),
    (EngineAbsent, NO_GPU),
    (Exception, UNUSABLE),
)
USER_ERRORS = (EngineError, NetworkError, SpecMismatch, OSError)

EPILOG = f"""\
examples:
  python build/compile_trt.py                         the bundled network, for this machine
  python build/compile_trt.py --network run/bundle --verify
                                                      yours, and how far the engine is from ONNX Runtime
  python build/compile_trt.py --precision fp32 --verify
                                                      is it fp16 that changes the answers?
  python build/compile_trt.py --backend tensorrt_rtx --out engine-rtx
                                                      on a machine without a GPU, to carry to one with
  python build/compile_trt.py --inspect engine-rtx    what it was built from and for; does it fit here?
  python -m runtime.live                              takes the engine that was built

Without --out it is kept where the application looks: $EMOTION_ENGINES, else the user's cache. An engine
carried to another machine goes into $EMOTION_ENGINES there, under the name that --inspect prints.

--backend auto: the first that can run here of tensorrt, tensorrt_rtx, onnxruntime.
--precision: the graph itself is converted and strongly typed; its inputs and outputs, softmax, norms and the
GD-Units' softmax stay fp32. --max-batch: the application runs one window at a time; more is for others.
--verify: differences of a probability up to {verify.LARGEST["fp32"]:g} (fp32), {verify.LARGEST["fp16"]:g} \
(fp16), {verify.LARGEST["bf16"]:g} (bf16) are allowed,
and another top class on 1 % of the windows.

exit status:
  0    built; with --verify: and close enough
  {TOO_FAR}    built, but farther from ONNX Runtime than is allowed, or nothing could be compared
  {UNUSABLE}    something you gave cannot be used: the network, a folder, an option
  {NO_LIBRARY}    the library is not installed, or in a version that cannot be used
  {NO_GPU}    no GPU, or one that the library or the engine is not for
  {NO_MEMORY}    too little memory
  {NOT_BUILT}    the library does not build this graph
  {STOPPED}  stopped with Ctrl-C; nothing was written
"""


def _batch(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r}, expected 1 to 256 windows")
    return int(text)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python build/compile_trt.py",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "--network", type=Path, default=networks.BUNDLED, metavar="DIR", help="a bundle (the bundled one)"
    )
    p.add_argument("--backend", choices=("auto", *BACKENDS), default="auto", help="what is to run it (auto)")
    p.add_argument("--precision", choices=PRECISIONS, help="default: fp16; for onnxruntime fp32")
    p.add_argument("--out", type=Path, metavar="DIR", help="its folder (where the application looks)")
    p.add_argument(
        "--plugin",
        action=argparse.BooleanOptionalAction,
        help="GD-Units as one kernel each (default where it can: tensorrt), or as ordinary layers",
    )
    p.add_argument(
        "--embed",
        action="store_true",
        help="that kernel into the engine, which then runs without Python, too (TensorRT 10.9 and later)",
    )
    p.add_argument("--verify", action="store_true", help="compare with ONNX Runtime on recorded windows")
    p.add_argument("--max-batch", type=_batch, default=1, metavar="N", help="windows at once, at most (1)")
    p.add_argument(
        "--inspect", type=Path, metavar="DIR|MANIFEST", help="print an engine's manifest, build nothing"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Every error a user can cause is one line and its exit status."""
    options = parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        if options.inspect is not None:
            return inspect(options.inspect)
        return compile_engine(options, console)
    except USER_ERRORS as error:
        text = str(error)
        if isinstance(error, OSError):
            text = ": ".join(part for part in (error.filename, error.strerror) if part)
        print(f"compile_trt: {' '.join(text.split())}", file=sys.stderr)
        return next(status for kind, status in STATUS if isinstance(error, kind))
    except KeyboardInterrupt:
        print("compile_trt: stopped: no engine was written", file=sys.stderr)
        return STOPPED


def compile_engine(options: argparse.Namespace, console: Console) -> int:
    """Find, build, report, verify; returns the exit status."""
    network = networks.load(options.network)
    recipe = _recipe(options, network, console)
    place: Path = options.out or recipe.place
    for left in artefact.clean(place.parent) if place.parent.is_dir() else []:
        _say(console, f"removed {left}, which a build that was killed left behind")
    batch = "batch 1" if recipe.max_batch == 1 else f"batches of 1 to {recipe.max_batch}"
    what = f"{recipe.backend} {recipe.library.version}, {recipe.precision}, {batch}"
    phases = Phases()
    with Shown(console, f"building: {what}", phases) as shown:
        place, manifest = compiler.build(recipe, phases, beat=shown.beat, place=place)
    plugin = f"{len(manifest.plugins)} plugin layers, " if manifest.plugin else ""
    print(
        f"{place}: {what}; {plugin}{sum(manifest.layers.values())} layers as given, "
        f"{manifest.engine_bytes / 1e6:.1f} MB, {manifest.build_s:.1f} s; GPU {manifest.gpu}"
    )
    return _verify(recipe, place, manifest) if options.verify else 0


def _recipe(options: argparse.Namespace, network: Network, console: Console) -> Recipe:
    """What to build, after a line for everything that was looked for."""
    gpu, why = gpu_or_none()
    _say(console, f"GPU: {gpu.name}, compute capability {gpu.capability}" if gpu else f"GPU: {why}")
    usable: list[Backend] = []
    for backend in BACKENDS:
        try:
            found = library(backend)
            _say(console, f"{backend}: {found.version}")
            usable.append(backend)
        except EngineError as error:
            _say(console, f"{backend}: {error}")
    asked = {"plugin": options.plugin, "max_batch": options.max_batch, "embed": options.embed}
    if options.backend != "auto":
        return compiler.check(network, options.backend, options.precision, **asked)
    for backend in usable:
        if (options.plugin or options.embed) and backend != "tensorrt":
            continue
        try:
            recipe = compiler.check(network, backend, options.precision, **asked)
            if recipe.device is not None or backend == "onnxruntime":
                return recipe
            why = f"no GPU runs it here; --backend {backend} builds it anyway"
            _say(console, f"{backend} is passed over: {why}")
        except EngineError as error:
            _say(console, f"{backend} is passed over: {error}")
    raise MissingLibrary("no library here can build what was asked for: see the lines above")


def _verify(recipe: Recipe, place: Path, manifest: Manifest) -> int:
    """Run the engine, or say why not and run the graph that it was built from, beside ONNX Runtime."""
    network, batch = recipe.network, recipe.max_batch
    if recipe.backend == "onnxruntime":
        subject, run = "the engine", verify.onnx_run(network, (place / ENGINE).read_bytes())
    elif recipe.device is not None:
        subject, run = "the engine", Runner(recipe.library, place, manifest).run
    else:
        print(
            f"the engine cannot run here (no GPU), so it was NOT verified; the {recipe.precision} graph that "
            f"it was built from is run in ONNX Runtime instead"
        )
        graph = compiler.converted(recipe, plugin=False)
        subject = f"the {recipe.precision} graph in ONNX Runtime"
        try:
            run = verify.onnx_run(network, graph)
        except EngineError as error:
            print(f"it cannot run that either, so nothing was compared: {' '.join(str(error).split())}")
            return TOO_FAR
    given = verify.feeds(network)
    report = verify.compare(network, given, verify.reference(network), run, batch=batch)
    good = report.fits(recipe.precision)
    print(f"{subject} against the fp32 graph in ONNX Runtime, {report.windows} windows {given.of}:")
    kind = "probability" if network.manifest.task == "classification" else "sentiment"
    print(f"  largest difference of a {kind}: {report.output:.2e}")
    print(f"  same top class: {report.same_top:.1%}")
    for name, far in report.by_name.items():
        print(f"  {name}: {far:.2e}")
    if batch > 1:
        print(f"  one by one against a batch of {min(batch, report.windows)}: {report.batches:.2e}")
    limit = f"{verify.LARGEST[recipe.precision]:g} and {verify.SAME_TOP:.0%} are allowed"
    print(f"  {'fits' if good else 'DOES NOT FIT'}: {limit}")
    return 0 if good else TOO_FAR


def inspect(path: Path) -> int:
    """Print a manifest, and whether its engine is whole and fits this machine."""
    manifest = artefact.read(path)
    facts = {name: _plain(value) for name, value in msgspec.to_builtins(manifest).items()}
    portable = manifest.backend == "onnxruntime" or manifest.compute_capability is None
    gpu = None if portable else Device(manifest.gpu, str(manifest.compute_capability), 0)
    home = artefact.home(manifest.network, manifest.backend, manifest.precision, gpu)
    for name, value in (facts | {"place": f"$EMOTION_ENGINES/{home.name}"}).items():
        print(f"{name:20}{value}")
    folder = path if path.is_dir() else path.parent
    if damaged := artefact.damage(folder, manifest):
        raise artefact.ArtefactError(f"{damaged}: build it anew")
    found = library(manifest.backend)
    if found.version != manifest.version:
        raise WrongVersion(
            f"{folder} was built with {manifest.backend} {manifest.version}, here is {found.version}: "
            f"build it anew"
        )
    if manifest.backend != "onnxruntime":
        _fits_gpu(folder, manifest)
    print("it is whole and fits this machine")
    return 0


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {kind}" for kind, count in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _fits_gpu(folder: Path, manifest: Manifest) -> None:
    """Raises WrongGPU where the engine is not for the GPU of this machine."""
    gpu, why = gpu_or_none()
    if gpu is None:
        raise WrongGPU(f"{folder} is whole, but cannot run here: {why}")
    here = {name: getattr(manifest, name) for name in Wanted.__struct_fields__ if name != "device"}
    if wrong := artefact.differences(manifest, Wanted(**here, device=gpu)):
        raise WrongGPU(f"{folder} is not for this machine: {'; '.join(wrong)}: build it anew")


def _say(console: Console, line: str) -> None:
    console.print(escape(line), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
