"""Export a network of every family to ONNX, for docs/export.md: results/export.json.

    python -m tools.measure.export_families                   # all families, then their times
    python -m tools.measure.export_families resnet vit        # these alone; the other rows stay
    python -m tools.measure.export_families --only_times      # of the files of the last run
    python -m tools.measure.export_families --translate_all   # every registered name, no record

Each network is exported in a process of its own: one that dies or takes too long costs its own row.
Its weights are random, and its batch normalisation has statistics that fit them: with the initial
ones, a mistake in folding would change nothing. Times are of ONNX Runtime, one image, the median
of some seconds; they need an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")

import numpy as np

from mindcv_ghost.errors import UserError, tells_user_errors
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.report.json_file import read_json
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import utc_now
from tools.measure.commits import repeatable_commit

__all__ = ["EQUAL", "FAMILIES", "agrees", "main", "networks", "run_one", "summarise"]

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "results" / "export.json"
FOLDER = Path(tempfile.gettempdir()) / "mindcv_ghost_export_families"
SECONDS_FOR_ONE = 400
EQUAL = 1e-4  # the largest difference of equal logits, relative to the largest logit
BATCHES = (1, 1, 3)  # of the three inputs
TIMED = {"warm_up": 3, "least": 5, "most": 50, "seconds": 2.0}

# The module of MindCV or of this package, and its smallest network; more where a family has
# several architectures. A number after the name is the side of the images, if it isn't 224.
FAMILIES: dict[str, tuple[str, ...]] = {
    "ghost_resnet": ("ghost_resnet50", "ghost_resnet18"),
    "ghost_resnet_cifar": ("ghost_resnet20_cifar 32",),
    "ghost_vgg": ("ghost_vgg16_cifar 32",),
    "gghost_regnet": ("g_ghost_regnetx_002",),
    "ghostnet_v2": ("ghostnetv2_100",),
    "ghostnet_v3": ("ghostnetv3_050",),
    "repghost": ("repghostnet_050",),
    "ghostnet": ("ghostnet_050",),
    "bit": ("BiT_resnet50",),
    "cait": ("cait_xxs24_224",),
    "cmt": ("cmt_tiny 160",),
    "coat": ("coat_lite_tiny", "coat_tiny"),
    "convit": ("convit_tiny",),
    "convnext": ("convnext_tiny", "convnextv2_atto"),
    "crossvit": ("crossvit_9 240",),
    "densenet": ("densenet121",),
    "dpn": ("dpn92",),
    "edgenext": ("edgenext_xx_small 256",),
    "efficientnet": ("efficientnet_b0", "efficientnet_v2_s"),
    "googlenet": ("googlenet",),
    "halonet": ("halonet_50t 256",),
    "hrnet": ("hrnet_w32",),
    "inceptionv3": ("inception_v3 299",),
    "inceptionv4": ("inception_v4 299",),
    "mae": ("mae_b_16_224_finetune", "mae_b_16_224_pretrain"),
    "mixnet": ("mixnet_s",),
    "mlpmixer": ("mlp_mixer_s_p32",),
    "mnasnet": ("mnasnet_050",),
    "mobilenetv1": ("mobilenet_v1_025",),
    "mobilenetv2": ("mobilenet_v2_035_224",),
    "mobilenetv3": ("mobilenet_v3_small_075",),
    "mobilevit": ("mobilevit_xx_small 256",),
    "nasnet": ("nasnet_a_4x1056",),
    "pit": ("pit_ti",),
    "pnasnet": ("pnasnet",),
    "poolformer": ("poolformer_s12",),
    "pvt": ("pvt_tiny",),
    "pvtv2": ("pvt_v2_b0",),
    "regnet": ("regnet_x_200mf", "regnet_y_200mf"),
    "repmlp": ("repmlp_t224",),
    "repvgg": ("repvgg_a0",),
    "res2net": ("res2net50", "res2net50_v1b"),
    "resnest": ("resnest14",),
    "resnet": ("resnet18", "resnet50", "resnext50_32x4d"),
    "resnetv2": ("resnetv2_50",),
    "rexnet": ("rexnet_09",),
    "senet": ("seresnet18",),
    "shufflenetv1": ("shufflenet_v1_g3_05",),
    "shufflenetv2": ("shufflenet_v2_x0_5",),
    "sknet": ("skresnet18",),
    "squeezenet": ("squeezenet1_0",),
    "swintransformer": ("swin_tiny",),
    "swintransformerv2": ("swinv2_tiny_window8 256",),
    "vgg": ("vgg11",),
    "visformer": ("visformer_tiny", "visformer_tiny_v2"),
    "vit": ("vit_b_32_224",),
    "volo": ("volo_d1",),
    "xception": ("xception 299",),
    "xcit": ("xcit_tiny_12_p16_224",),
}


# --- one network, in a process of its own -------------------------------------------------------


def measure(name: str, side: int, folder: Path, sizes: bool) -> None:
    """Export one network by both exporters; print the row after each step, as far as it got."""
    import mindcv

    import mindcv_ghost  # noqa: F401 (registers its models)
    from mindcv_ghost.export import build_onnx

    (folder / f"{name}.onnx").unlink(missing_ok=True)  # of an earlier run
    row: dict[str, Any] = {"model": name, "image_size": side}
    inputs = [_images(batch, (side, side), seed) for seed, batch in enumerate(BATCHES)]
    try:
        network = mindcv.create_model(name).set_train(False)
        give_statistics(network, side)
        wanted = _logits(network, inputs)
    except Exception as error:  # MindCV and MindSpore raise errors of any class
        print(json.dumps({**row, "cannot_run": _reason(error)}), flush=True)
        return
    row["parameters"] = sum(p.size for p in network.trainable_params())
    try:
        model = build_onnx(network, image_size=(side, side))
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
        row["nodes"] = len(model.graph.node)
        row["difference"] = _difference(model, inputs, wanted)
    except Exception as error:
        row["ours"] = _reason(error)
    print(json.dumps(row), flush=True)
    if sizes:
        row["any_size"] = _any_size(network, side)
        print(json.dumps(row), flush=True)
    row["mindspore"] = _by_mindspore(network, inputs[0], wanted[0], folder)
    print(json.dumps(row), flush=True)


def give_statistics(network: Any, side: int) -> None:
    """Give batch normalisation random scales and offsets, and the statistics of random images.

    No channel is enlarged more than the average one, or more than its mean allows: in a random
    network, rounding would be enlarged with it, layer after layer, which no trained network does.
    """
    import mindspore as ms

    from mindcv_ghost.surgery.bn_statistics import batch_norms, recompute_running_statistics

    random = np.random.default_rng(0)
    layers = batch_norms(network).values()
    for layer in layers:
        shape = layer.gamma.shape
        layer.gamma.set_data(ms.Tensor(random.uniform(0.5, 1.5, shape).astype(np.float32)))
        layer.beta.set_data(ms.Tensor(random.normal(0, 0.2, shape).astype(np.float32)))
    if layers:
        recompute_running_statistics(network, [_images(2, (side, side), seed=7)])
    for layer in layers:
        variance, mean = layer.moving_variance.asnumpy(), layer.moving_mean.asnumpy()
        least = np.maximum(variance.mean(), mean**2)
        layer.moving_variance.set_data(ms.Tensor(np.maximum(variance, least)))


def _logits(network: Any, inputs: Iterable[np.ndarray]) -> list[np.ndarray]:
    """What MindSpore computes: in PyNative mode, which compiles nothing, or else in graph mode."""
    import mindspore as ms

    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        return [network(ms.Tensor(images)).asnumpy() for images in inputs]
    except Exception:
        ms.set_context(mode=ms.GRAPH_MODE)
        return [network(ms.Tensor(images)).asnumpy() for images in inputs]


def _images(batch: int, size: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, 3, *size)).astype(np.float32)


def _difference(model: Any, inputs: Iterable[np.ndarray], wanted: Iterable[np.ndarray]) -> float:
    """The largest difference of the logits, relative to the largest logit of the input."""
    session = _session(model if isinstance(model, bytes) else model.SerializeToString())
    name = session.get_inputs()[0].name
    found = [session.run(None, {name: images})[0] for images in inputs]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, wanted))


def _any_size(network: Any, side: int) -> float | str:
    """The difference for images of another size than any that the network was compiled for."""
    from mindcv_ghost.export import build_onnx

    images = _images(2, (side + 96, side + 32), seed=9)
    try:
        model = build_onnx(network, image_size=(side, side), dynamic=("batch", "size"))
        return _difference(model, [images], _logits(network, [images]))
    except Exception as error:
        return _reason(error)


def _by_mindspore(
    network: Any, images: np.ndarray, wanted: np.ndarray, folder: Path
) -> float | str:
    """The difference of the file that MindSpore's own exporter writes, or why it doesn't."""
    import mindspore as ms

    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "network.onnx"
        try:
            ms.export(network, ms.Tensor(images), file_name=str(path), file_format="ONNX")
            return _difference(path.read_bytes(), [images], [wanted])
        except Exception as error:
            return _reason(error)


def _reason(error: Exception) -> str:
    """The beginning of an error, without the stack that MindSpore prints below it."""
    text = str(error).partition("- C++ Call Stack")[0]
    lines = [line.strip("- ") for line in text.splitlines()]
    return " ".join(filter(None, lines))[:300] or type(error).__name__


# --- all of them ---------------------------------------------------------------------------------


def run_one(name: str, side: int, folder: Path, sizes: bool = True) -> dict[str, Any]:
    """Measure one network in a process of its own; return its row, however far it came."""
    command = [sys.executable, "-m", "tools.measure.export_families", "--one", name, str(side)]
    command += ["--folder", str(folder), *([] if sizes else ["--no_sizes"])]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL, cwd=ROOT)
        try:
            status: int | str = process.wait(SECONDS_FOR_ONE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "too slow"
        output.seek(0)
        rows = [json.loads(line) for line in output if line.startswith('{"model"')]
    row = rows[-1] if rows else {"model": name, "image_size": side}
    if status != 0:
        row["stopped"] = f"after {time.monotonic() - started:.0f} s: {status}"
    return row


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def milliseconds(path: Path, side: int) -> float:
    """Time one image in ONNX Runtime: the median of 5 to 50 runs in about two seconds."""
    session = _session(path.read_bytes())
    feed = {"image": _images(1, (side, side), seed=0)}
    for _ in range(TIMED["warm_up"]):
        session.run(None, feed)
    seconds: list[float] = []
    while len(seconds) < TIMED["least"] or (
        sum(seconds) < TIMED["seconds"] and len(seconds) < TIMED["most"]
    ):
        started = time.perf_counter()
        session.run(None, feed)
        seconds.append(time.perf_counter() - started)
    return float(f"{1000 * statistics.median(seconds):.3g}")


def summarise(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Count families: all, those that run in MindSpore, and those that each exporter can export.

    A family is exported if each of its networks that runs is, and agrees with MindSpore.
    """
    counts = {"families": 0, "run": 0, "ours": 0, "mindspore": 0}
    for family in dict.fromkeys(row["family"] for row in rows):
        of_family = [row for row in rows if row["family"] == family]
        runnable = [row for row in of_family if "cannot_run" not in row]
        counts["families"] += 1
        counts["run"] += bool(runnable)
        counts["ours"] += bool(runnable) and all(agrees(r.get("difference")) for r in runnable)
        counts["mindspore"] += bool(runnable) and all(agrees(r.get("mindspore")) for r in runnable)
    return counts


def agrees(difference: Any) -> bool:
    """Whether something is a difference, and small enough."""
    return isinstance(difference, float) and difference <= EQUAL


def networks(families: Iterable[str]) -> list[tuple[str, str, int]]:
    """Return (family, model, side of the images) of some families."""
    found = []
    for family in families:
        for entry in FAMILIES[family]:
            name, _, side = entry.partition(" ")
            found.append((family, name, int(side or 224)))
    return found


def export(
    families: list[str], folder: Path, workers: int, sizes: bool, old: dict[str, dict]
) -> Iterator[list[dict]]:
    """Yield the rows of all families after each network that was measured anew."""
    wanted = networks(families)
    with ThreadPoolExecutor(workers) as pool:
        rows = pool.map(lambda entry: run_one(entry[1], entry[2], folder, sizes), wanted)
        for (family, name, _), row in zip(wanted, rows):
            keys = {"milliseconds"} | (set() if sizes else {"any_size"})
            kept = {key: value for key, value in old.get(name, {}).items() if key in keys}
            old[name] = {"family": family, **kept, **row}
            print(json.dumps(old[name]), flush=True)
            yield [old[name] for _, name, _ in networks(FAMILIES) if name in old]


def translate_all(workers: int, folder: Path) -> int:
    """Translate every registered network, and print the rows of those that fail.

    A network that doesn't run in MindSpore can't fail: nobody knows its logits.

    Returns:
        The exit status: 1 if one failed.
    """
    import mindcv
    from mindcv.models import registry

    import mindcv_ghost  # noqa: F401

    given = {name: side for _, name, side in networks(FAMILIES)}
    failed, not_run = 0, 0
    names = mindcv.list_models()
    sides = []
    for name in names:
        module = registry.model_entrypoint(name).__module__.rpartition(".")[2]
        family = FAMILIES[module]
        usual = int(family[0].partition(" ")[2] or 224)
        digits = [int(p) for p in name.split("_") if p in ("96", "128", "160", "192", "384", "448")]
        sides.append(given.get(name, digits[-1] if digits else usual))
    with ThreadPoolExecutor(workers) as pool:
        rows = pool.map(lambda pair: run_one(pair[0], pair[1], folder), zip(names, sides))
        for row in rows:
            (folder / f"{row['model']}.onnx").unlink(missing_ok=True)
            if "cannot_run" in row:
                not_run += 1
            elif not agrees(row.get("difference")):
                failed += 1
                print(json.dumps(row), flush=True)
    runnable = len(names) - not_run
    print(f"{runnable - failed} of {runnable} registered networks agree; {not_run} more don't run")
    return 1 if failed else 0


def time_all(result: dict[str, Any], folder: Path) -> None:
    """Time the files of a folder; a row without a file keeps its time if it is of this machine."""
    hardware = describe_hardware()
    for row in result["rows"]:
        path = folder / f"{row['model']}.onnx"
        if path.exists():
            row["milliseconds"] = milliseconds(path, row["image_size"])
        elif result.get("hardware_of_times") != hardware:
            row.pop("milliseconds", None)
    result["hardware_of_times"] = hardware


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Export the families and write the file; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.measure.export_families")
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="by default all")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file (%(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the .onnx files")
    parser.add_argument("--workers", type=int, default=2, help="networks at the same time")
    parser.add_argument("--only_times", action="store_true", help="time the files of the last run")
    parser.add_argument("--no_times", action="store_true", help="leave the times as they are")
    parser.add_argument("--no_sizes", action="store_true", help="try no other sizes of images")
    parser.add_argument("--translate_all", action="store_true", help="every registered network")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.one:
        name, side = arguments.one
        measure(name, int(side), arguments.folder, not arguments.no_sizes)
        return 0
    if arguments.translate_all:
        return translate_all(arguments.workers, arguments.folder)
    unknown = [family for family in arguments.families if family not in FAMILIES]
    if unknown:
        raise UserError(f"no such family: {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    commit = repeatable_commit()  # once: the file that is written belongs to the commit, too
    result = read_json(arguments.out) if arguments.out.exists() else {"rows": []}
    old = {row["model"]: row for row in result["rows"]}
    if not arguments.only_times:
        families = arguments.families or list(FAMILIES)
        sizes = not arguments.no_sizes
        for rows in export(families, arguments.folder, arguments.workers, sizes, old):
            times = {key: result[key] for key in ("hardware_of_times",) if key in result}
            result = {**_conditions(commit), **times, "rows": rows}
            write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    if not arguments.no_times:
        time_all(result, arguments.folder)
    write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(summarise(result["rows"])))
    return 0


def _conditions(commit: str) -> dict[str, Any]:
    from importlib.metadata import version

    packages = ("mindspore", "mindcv", "onnx", "onnxruntime")
    return {
        "kind": "export",
        "command": "python -m tools.measure.export_families",
        "hardware": describe_hardware(),
        "versions": {package: version(package) for package in packages},
        "commit": commit,
        "date": utc_now(),
    }


if __name__ == "__main__":
    sys.exit(main())
