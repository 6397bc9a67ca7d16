"""Evaluation of accelerated networks in MindSpore against ONNX Runtime and OpenVINO.

    python benchmarks/accelerated_inference.py [--rounds 8] [--side 224] [--models ghostnet_100 ...]

Ours: ``create_model``, in its deploy form if it has one, then ``mindcv_ghost.accelerate``. Rivals:
the same weights in a file that ONNX Runtime or OpenVINO runs, exported by ``build_onnx``
(ghost_resnet50) or from timm's network by ``torch.onnx.export`` (the others, re-parameterised).
A third participant is ours in a graph that MindSpore has compiled, as in a cell around the network.
Each participant is a process with two threads and all networks. In each round every one takes a
turn while the others wait; a row has the median over the rounds of the ratio within a round.

The networks are untrained. BN's running statistics are those of random images, because with the
initial ones the values grow or vanish from layer to layer, and denormal numbers are slow. Every
participant's logits are compared with the file's before it is timed.

Predicted: with one image ghost_resnet50 is as fast as in the faster runtime, with 8 images 1.2
times, because fewer maps are written. The four small networks are 0.9 to 1.1 times as fast: they
are bound by depthwise convolutions and by starting steps, not by products. A call is 1.1 to 1.3
times as fast as that of a compiled graph, because MindSpore's executor takes 0.3 to 0.7 ms.
docs/performance.md has the results.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import (  # noqa: E402
    TimeBudget,
    fail_if_left_out,
    measure_rounds,
    print_row,
    scratch_folder,
)
from benchmarks.inference import export_torch, openvino_runner, ort_runner  # noqa: E402
from benchmarks.train_step import TimedProcess, start_processes  # noqa: E402

# model -> batch size -> runs of a turn, whose median counts, and the goal
CASES = {
    "ghost_resnet50": {1: (20, ">= 1"), 8: (3, ">= 1.2")},
    "ghostnet_100": {1: (40, ">= 0.9")},
    "ghostnetv2_100": {1: (40, ">= 0.9")},
    "ghostnetv3_100": {1: (40, ">= 0.9")},
    "repghostnet_100": {1: (40, ">= 0.9")},
}
FROM_TIMM = [model for model in CASES if model != "ghost_resnet50"]
NAMES = {
    "native": "MindSpore, this package's operators",
    "graph": "the same operators in a compiled graph",
    "ort": "the exported network, ONNX Runtime",
    "openvino": "the exported network, OpenVINO",
}
CALIBRATION = (8, 3, 128, 128)  # random images for BN's statistics
# Largest difference of a participant's logits from the file's, of the largest logit.
TOLERANCE = 1e-3


def write_files(folder: Path, side: int, models: list[str]) -> None:
    """Write each network's weights (.ckpt), its exported file and that file's logits (.npy)."""
    import numpy as np

    from mindcv_ghost.storage.checkpoint import save_weights

    for model in models:
        write = write_from_timm if model in FROM_TIMM else write_own
        save_weights(write(model, folder / f"{model}.onnx", side), folder / f"{model}.ckpt")
        run = ort_runner(folder / f"{model}.onnx", side)
        np.save(folder / f"{model}.npy", run(random_images(1, side))[0])


def write_own(model: str, path: Path, side: int) -> list[Any]:
    """Export one of this package's networks; return its parameters."""
    import mindcv
    import mindspore as ms
    import onnx

    import mindcv_ghost  # noqa: F401 (registers the zoo)
    from mindcv_ghost.export.onnx_file import build_onnx
    from mindcv_ghost.surgery.bn_statistics import recompute_running_statistics

    ms.set_seed(1)
    network = mindcv.create_model(model)
    recompute_running_statistics(network, [random_images(CALIBRATION[0], CALIBRATION[2])])
    exported = build_onnx(
        network, image_size=(side, side), in_channels=3, dynamic=("batch",), fp16=False
    )
    onnx.save(exported, path)
    return list(network.get_parameters())


def write_from_timm(model: str, path: Path, side: int) -> list[Any]:
    """Export a network of timm's, re-parameterised; return its parameters before that."""
    from tests.helpers.needs_torch import torch_and_timm

    torch, timm = torch_and_timm()
    import mindcv
    from mindspore import Parameter, Tensor
    from timm.utils.model import reparameterize_model

    import mindcv_ghost  # noqa: F401 (registers the zoo)
    from mindcv_ghost.convert import to_mindspore

    torch.manual_seed(1)
    network = timm.create_model(model).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        network(torch.from_numpy(random_images(CALIBRATION[0], CALIBRATION[2])))
    network.train(False)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    arrays, _ = to_mindspore(weights, mindcv.create_model(model), model)
    export_torch(torch, reparameterize_model(network), path, side)
    return [Parameter(Tensor(array), name=name) for name, array in arrays.items()]


def random_images(batch: int, side: int) -> Any:
    """Return the same normally distributed images (batch, 3, side, side) at each call."""
    import numpy as np

    return np.random.default_rng(0).normal(size=(batch, 3, side, side)).astype(np.float32)


def native_runner(model: str, weights: Path, compiled: bool) -> Callable[[Any], object]:
    """Run a network in MindSpore, accelerated, in graph mode.

    Args:
        model: its name.
        weights: its checkpoint.
        compiled: whether MindSpore's executor runs a graph of it; it isn't used otherwise.
    """
    import mindcv
    import mindspore as ms

    import mindcv_ghost
    from mindcv_ghost.surgery.deploy import deploy, has_deploy_form

    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    network = mindcv.create_model(model).set_train(False)
    ms.load_checkpoint(str(weights), network, strict_load=True)
    if has_deploy_form(network):
        network = deploy(network)
    if mindcv_ghost.accelerate(network).threads == 0:
        raise SystemExit("this package's operators can't be built")
    call = functools.partial(ms.nn.Cell.__call__, network) if compiled else network
    # Both runtimes read the array itself, too; ms.Tensor(images) copies it.
    return lambda images: call(ms.Tensor.from_numpy(images)).asnumpy()


def make_runner(who: str, model: str, folder: Path, side: int) -> Callable[[Any], object]:
    if who in ("native", "graph"):
        return native_runner(model, folder / f"{model}.ckpt", who == "graph")
    if who == "ort":
        return ort_runner(folder / f"{model}.onnx", side)
    return openvino_runner(folder / f"{model}.onnx", side, tuple(CASES[model]))


def serve_turns(who: str, folder: Path, side: int, models: list[str]) -> None:
    """Run a participant that takes a turn for each line on standard input, answered with JSON.

    Its first line has the seconds of a turn; a turn's has the seconds of a run by model and batch.
    """
    runners = {model: make_runner(who, model, folder, side) for model in models}
    for model, run in runners.items():
        check_logits(who, model, run, folder, side)
    images = {batch: random_images(batch, side) for case in CASES.values() for batch in case}

    def turn() -> dict[str, float]:
        found = {}
        for model, run in runners.items():
            for batch, (runs, _) in CASES[model].items():
                seconds = []
                for _ in range(runs):
                    started = time.perf_counter()
                    run(images[batch])
                    seconds.append(time.perf_counter() - started)
                found[f"{model} {batch}"] = statistics.median(seconds)
        return found

    turn()  # compiles what is compiled for a shape
    started = time.perf_counter()
    turn()
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


def check_logits(who: str, model: str, run: Callable, folder: Path, side: int) -> None:
    """End the program if a participant computes something else than the exported file."""
    import numpy as np

    expected = np.load(folder / f"{model}.npy")
    output = run(random_images(1, side))
    got = output[0] if isinstance(output, (list, tuple)) or who == "openvino" else output
    error = np.abs(got - expected).max() / np.abs(expected).max()
    if not error <= TOLERANCE:
        raise SystemExit(f"{model}: {NAMES[who]} differs by {error:.1e} of the largest logit")


def compare(rounds: int, side: int, models: list[str]) -> None:
    """Start the participants, let them take turns, print the rows."""
    budget, left_out = TimeBudget(), []
    order = list(NAMES)
    if importlib.util.find_spec("openvino") is None:
        order.remove("openvino")
        left_out.append("OpenVINO, which isn't installed: pip install 'mindcv-ghost[bench]'")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        options = [f"--folder={folder}", f"--side={side}", "--models", *models]
        command = [sys.executable, __file__, "--only=files", *options]
        subprocess.run(command, check=True, stdout=sys.stderr)

        def begin(who: str) -> TimedProcess:
            return stack.enter_context(contextlib.closing(TimedProcess(who, options, __file__)))

        processes = start_processes(order, begin, 1, budget)
        turns: dict[str, Callable] = {who: each.turn for who, each in processes.items()}
        done = measure_rounds(turns, rounds, budget)
    print_ratios(done, side, models)
    fail_if_left_out(left_out + [NAMES[w] for w in order if not any(w in each for each in done)])


def print_ratios(rounds: list[dict[str, dict[str, float]]], side: int, models: list[str]) -> None:
    """Print a row for each model, batch size and rival that was measured."""
    cases = [(model, batch, goal) for model in models for batch, (_, goal) in CASES[model].items()]
    for model, batch, goal in cases:
        key = f"{model} {batch}"
        for rival in ("ort", "openvino", "graph"):
            both = [each for each in rounds if "native" in each and rival in each]
            if not both:
                continue
            print_row(
                "Inference in MindSpore",
                f"{model}, {batch} image{'s' if batch != 1 else ''} of {side}x{side}",
                statistics.median(1000 * each["native"][key] for each in both),
                "ms",
                NAMES[rival],
                statistics.median(1000 * each[rival][key] for each in both),
                statistics.median(each[rival][key] / each["native"][key] for each in both),
                "" if rival == "graph" else goal,
            )


def main() -> None:
    """Measure in turn; print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--models", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    side, models, folder = arguments.side, arguments.models, arguments.folder
    if arguments.only == "files":
        write_files(folder, side, models)
    elif arguments.only:
        serve_turns(arguments.only, folder, side, models)
    else:
        compare(arguments.rounds, side, models)


if __name__ == "__main__":
    main()
