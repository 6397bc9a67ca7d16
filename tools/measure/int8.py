"""Measure what int8 costs and brings, for docs/int8.md: results/int8.json.

python -m tools.measure.int8 [MODEL ...] [--runs runs/int8]

Networks are trained on the handwritten digits by the quick start's settings (20 epochs, batch 64;
`--runs` keeps them for the next time), exported, and quantised for this processor. Then
two of them are timed with each scheme in each runtime: one image of 224x224, two threads, in
turn. OpenVINO is timed once more as if the processor had AVX2 alone. Accuracy is of 360 held-out
digits, 0.28 points each.
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
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")
# As MindSpore sets it when it is imported, which is too late after onnx.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

import numpy as np
import onnx
import yaml

from mindcv_ghost.errors import UserError, tells_user_errors
from mindcv_ghost.export.quantisation import LayerCost, Scheme, quantise
from mindcv_ghost.export.quantisation.calibration import calibrate
from mindcv_ghost.export.quantisation.insertion import insert_quantisation, prepare
from mindcv_ghost.export.quantisation.layers import weighted_layers
from mindcv_ghost.export.quantisation.sensitivity import (
    layer_errors,
    logits_of,
    signal_to_noise,
)
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import utc_now
from tools.measure.commits import repeatable_commit
from tools.measure.proof import is_finished

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "results" / "int8.json"
RECIPE = ROOT / "configs" / "ghostnet" / "ghost_resnet50_digits.yaml"
# model -> side of its images: GhostNetV2's attention halves the maps once more
NETWORKS = {
    "ghost_resnet50": 32,
    "ghostnet_100": 32,
    "ghostnetv2_100": 64,
    "repghostnet_100": 32,
    "g_ghost_regnetx_002": 32,
}
TIMED = ("ghost_resnet50", "ghostnet_100")  # with each scheme; their layers also per tensor
CALIBRATION_IMAGES = 256
SCHEMES = (
    Scheme("uint8"),
    Scheme("uint8", reduce_range=True),
    Scheme("int8"),
    Scheme("uint8", per_channel=False),
)
THREADS, ROUNDS = 2, 25


def trained(model: str, side: int, runs: Path) -> tuple[Path, Path]:
    """Return recipe and checkpoint of a network; train it unless the folder has them."""
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    if model != recipe["model"]:
        del recipe["model_args"]
    recipe |= {"model": model, "image_resize": side, "batch_size": 64, "epoch_size": 20}
    recipe |= {"ckpt_save_dir": str(runs / model)}
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"{model}.yaml"
    write_text(path, yaml.safe_dump(recipe))
    if not is_finished(runs / model, recipe["epoch_size"]):  # it may have been stopped
        command = [sys.executable, "train.py", "--config", str(path), "--resume", "auto"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return path, runs / model / "best.ckpt"


def images_and_labels(recipe: Path, split: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Return all images of a split, in batches, as validation makes them."""
    from mindcv_ghost.config import load_config
    from mindcv_ghost.launch.world import detect
    from mindcv_ghost.run.parts import create_eval_loader, open_set

    config = load_config(["--config", str(recipe), "--ckpt_path", "unused.ckpt"], script="validate")
    source = open_set(config, split)
    images, labels = [], []
    for batch in create_eval_loader(config, source, detect(os.environ)).batches():
        image, label, valid = (np.asarray(each) for each in batch)
        images.append(image[valid > 0].copy())
        labels.append(label[valid > 0].copy())
    return images, np.concatenate(labels)


def spread(batches: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Return so many images from all over a set that is sorted by class."""
    images = np.concatenate(batches)
    chosen = images[np.linspace(0, len(images) - 1, count).astype(int)]
    return [chosen[start : start + 32] for start in range(0, count, 32)]


def exported(model: str, classes: int, side: int, checkpoint: Path | None) -> onnx.ModelProto:
    """Return a network as a float32 ONNX model."""
    import mindcv_ghost
    from mindcv_ghost.export.onnx_file import build_onnx

    path = {} if checkpoint is None else {"checkpoint_path": str(checkpoint)}
    network = mindcv_ghost.create_model(model, num_classes=classes, **path)
    size = (side, side)
    return build_onnx(network, image_size=size, in_channels=3, dynamic=("batch",), fp16=False)


def measure_network(model: str, side: int, runs: Path) -> dict[str, Any]:
    """Quantise a network; return what it lost, and what each kind of layer costs."""
    recipe, checkpoint = trained(model, side, runs)
    validation, labels = images_and_labels(recipe, "val")
    calibration = spread(images_and_labels(recipe, "train")[0], CALIBRATION_IMAGES)
    float32 = exported(model, 10, side, checkpoint)

    def top1(each: onnx.ModelProto) -> float:
        return 100 * float((logits_of(each, validation).argmax(1) == labels).mean())

    started = time.perf_counter()
    # Half a point: one digit may be lost.
    result = quantise(float32, calibration, top1, max_drop=0.5)
    seconds = time.perf_counter() - started
    prepared, images = prepare(float32), spread(calibration, 32)
    ranges = calibrate(prepared, calibration, result.method)
    per_tensor = Scheme("uint8", result.scheme.reduce_range, per_channel=False)
    coarse = {}
    if model in TIMED:
        layers, own = weighted_layers(prepared), logits_of(prepared, images)
        coarse = layer_errors(prepared, layers, ranges, per_tensor, images, own)
    exact = logits_of(float32, validation)
    whole = insert_quantisation(prepared, ranges, per_tensor)
    return {
        "model": model,
        "side": side,
        "record": result.record(),
        "layers": len(result.report),
        "trials": [asdict(trial) for trial in result.trials],
        "images": len(labels),
        "agreement": 100 * float(np.mean(same_labels(exact, logits_of(result.model, validation)))),
        "bytes_float32": float32.ByteSize(),
        "bytes_int8": result.model.ByteSize(),
        "seconds": round(seconds, 1),
        "per_tensor": {
            "top1": top1(whole),
            "sqnr_db": round(signal_to_noise(exact, logits_of(whole, validation)), 1),
        },
        "sqnr_db": round(signal_to_noise(exact, logits_of(result.model, validation)), 1),
        "kinds": noise_of_kinds(result.report, coarse),
        "costliest": [asdict(r) for r in sorted(result.report, key=lambda row: row.sqnr_db)[:5]],
    }


def noise_of_kinds(
    report: Sequence[LayerCost], coarse: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return for each kind of layer its median and its worst; None where it wasn't measured."""
    kinds = defaultdict(list)
    for row in report:
        kinds[row.kind].append(row)
    found = []
    for kind, rows in kinds.items():
        fine = [row.sqnr_db for row in rows]
        others = [coarse[row.layer] for row in rows if row.layer in coarse]
        found.append(
            {
                "kind": kind,
                "layers": len(rows),
                "median_db": round(statistics.median(fine), 1),
                "worst_db": round(min(fine), 1),
                "per_tensor_median_db": round(statistics.median(others), 1) if others else None,
                "per_tensor_worst_db": round(min(others), 1) if others else None,
            }
        )
    return found


def same_labels(logits: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether each image has the same label."""
    return logits.argmax(1) == others.argmax(1)


def write_schemes(model: str, folder: Path, runs: Path) -> None:
    """Write a network with each scheme: trained for small images, and one to be timed."""
    side = NETWORKS[model]
    recipe, checkpoint = trained(model, side, runs)
    digits = spread(images_and_labels(recipe, "train")[0], CALIBRATION_IMAGES)
    random = np.random.default_rng(0).normal(size=(4, 3, 224, 224)).astype(np.float32)
    given = (
        ("exact", exported(model, 10, side, checkpoint), digits),
        ("timed", exported(model, 1000, 224, None), [random]),
    )
    for name, each, images in given:
        prepared = prepare(each)
        onnx.save(prepared, folder / f"{name}-float32.onnx")
        ranges = calibrate(prepared, images, "MinMax")
        for number, scheme in enumerate(SCHEMES):
            made = insert_quantisation(prepared, ranges, scheme)
            onnx.save(made, folder / f"{name}-{number}.onnx")
    validation, _ = images_and_labels(recipe, "val")
    np.save(folder / "validation.npy", np.concatenate(validation))


def measure_schemes(folder: Path, runtime: str) -> list[dict[str, Any]]:
    """Time each scheme in a runtime, and compare its logits with those of float32."""
    names = ["float32", *map(str, range(len(SCHEMES)))]
    run = {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime]
    timed = {name: run(folder / f"timed-{name}.onnx", (1, 3, 224, 224)) for name in names}
    image = np.random.default_rng(1).normal(size=(1, 3, 224, 224)).astype(np.float32)
    seconds = defaultdict(list)
    for _ in range(ROUNDS):
        for name in names:
            timed[name](image)  # fetches its weights into the cache
            started = time.perf_counter()
            timed[name](image)
            seconds[name].append(time.perf_counter() - started)
    validation = np.load(folder / "validation.npy")
    logits = {n: run(folder / f"exact-{n}.onnx", validation.shape)(validation) for n in names}
    return [
        {
            "scheme": "float32" if name == "float32" else str(SCHEMES[int(name)]),
            "ms": round(1000 * statistics.median(seconds[name]), 2),
            "ratio": round(_ratio(seconds["float32"], seconds[name]), 2),
            "sqnr_db": None
            if name == "float32"
            else round(signal_to_noise(logits["float32"], logits[name]), 1),
        }
        for name in names
    ]


def _ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, others))


def _onnxruntime(path: Path, shape: tuple[int, ...]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {session.get_inputs()[0].name: images})[0]


def _openvino(path: Path, shape: tuple[int, ...]) -> Any:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(shape))
    options = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda images: request.infer([images])[0].copy()


def compare_schemes(model: str, runs: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of each runtime, and of OpenVINO without instructions after AVX2."""
    write_schemes(model, folder, runs)
    found = []
    for runtime, isa in (("onnxruntime", ""), ("openvino", ""), ("openvino", "AVX2")):
        command = [sys.executable, "-m", "tools.measure.int8", "--schemes", runtime, str(folder)]
        # oneDNN, which OpenVINO computes with, reads this variable at its start.
        environ = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
        done = subprocess.run(
            command, cwd=ROOT, env=environ, check=True, stdout=subprocess.PIPE, text=True
        )
        rows = json.loads(done.stdout.splitlines()[-1])
        found.append({"model": model, "runtime": runtime, "isa": isa, "rows": rows})
    return found


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Measure and write the file; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.measure.int8")
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(NETWORKS))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "int8")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file (%(default)s)")
    parser.add_argument("--schemes", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.schemes:
        runtime, folder = arguments.schemes
        print(json.dumps(measure_schemes(Path(folder), runtime)))
        return 0
    from benchmarks.harness import provenance

    unknown = [model for model in arguments.models if model not in NETWORKS]
    if unknown:
        raise UserError(f"no such model: {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    if arguments.models and arguments.out == OUT:
        raise UserError(f"{OUT.name} has all models: give another file with --out, too")
    result = {
        "kind": "int8",
        "command": "python -m tools.measure.int8",
        "hardware": describe_hardware(),
        "versions": provenance("onnxruntime", "openvino", "onnx")["versions"],
        "commit": repeatable_commit(),
        "date": utc_now(),
        "threads": THREADS,
        "calibration_images": CALIBRATION_IMAGES,
    }
    networks = []
    for model in arguments.models or NETWORKS:
        networks.append(measure_network(model, NETWORKS[model], arguments.runs))
        print(json.dumps(networks[-1]["record"]), flush=True)
    schemes = []
    for model in TIMED:
        with tempfile.TemporaryDirectory() as folder:
            schemes += compare_schemes(model, arguments.runs, Path(folder))
    text = json.dumps({**result, "networks": networks, "schemes": schemes}, indent=1)
    write_text(arguments.out, text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
