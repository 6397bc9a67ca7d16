"""Inference of the exported network against its rivals: images of 224x224, batches of 1, 8 and 32.

    python benchmarks/inference.py [--rounds 10] [--side 224]

Each participant is a process with two threads. In each round every one takes a turn of a few runs
per batch size while the others wait, so that a machine that is busy for some seconds slows all of
them. A row, printed as JSON, has the median over the rounds of the ratio within a round.

Ours: ghost_resnet50 by ``build_onnx``, float32 and int8 (the scheme for this processor, MinMax on
random images: the weights are random, too, and speed depends on neither), in ONNX Runtime and
OpenVINO. Rivals: the same network written in PyTorch, exported by ``torch.onnx.export`` and run in
ONNX Runtime; eager (channels last, BN folded) and by ``torch.compile``; MindSpore on stock
operators and on this package's. The dense parent is MindCV's resnet50, exported by the same
function. OpenVINO computes in float32 here; by itself it takes bfloat16 on some processors.

The last rows say where the time of one image goes, by ONNX Runtime's profiler, and how many nodes
are left after its optimiser.

Predicted, after a trial of ONNX Runtime and OpenVINO with one thread on a busy machine: 1.04 times
as fast as PyTorch's export, in which no sum is moved before a concatenation; 1.5 times as fast as
PyTorch eager; int8 is 2.3 times as fast as float32 with one image and 3 times with 8, in OpenVINO
2.4 times. ghost_resnet50 is 1.5 times as fast as resnet50, not 1.9 times: depthwise convolutions
and concatenations add no multiply-adds but read and write each map. In int8 it is only 1.2 times as
fast, because dense convolutions gain three times and the others hardly anything.
docs/performance.md has the results.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOG_v", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import (  # noqa: E402
    OutOfTime,
    TimeBudget,
    fail_if_left_out,
    measure_rounds,
    print_row,
    scratch_folder,
)
from benchmarks.train_step import TimedProcess, start_processes  # noqa: E402

MODEL, PARENT = "ghost_resnet50", "resnet50"
THREADS = 2
# Batch size -> runs of a turn, whose median counts. The first dozen after a pause are slower: with
# 7 runs of one image the int8 file seemed to take 9 ms, with 40 it takes 6.
RUNS = {1: 40, 8: 2, 32: 1}
# Participants, the most important first, and their names in the tables. {} is a model.
NAMES = {
    "ort": "exported, float32, ONNX Runtime",
    "ort-int8": "exported, int8, ONNX Runtime",
    "torch-export": "PyTorch's export, ONNX Runtime",
    "torch": "PyTorch, eager, channels last, BN folded",
    "parent": f"{PARENT}, exported, float32, ONNX Runtime",
    "parent-int8": f"{PARENT}, exported, int8, ONNX Runtime",
    "openvino": "exported, float32, OpenVINO",
    "openvino-int8": "exported, int8, OpenVINO",
    "native": "MindSpore, this package's operators",
    "stock": "MindSpore, stock operators",
    "torch-compile": "PyTorch, torch.compile",
}
# ours, rival, goal for the ratio of the rival's time to ours; "vnni": only with such a processor
ROWS = (
    ("ort", "torch-export", ">= 1"),
    ("ort", "torch", ">= 1.3"),
    ("ort", "torch-compile", ""),
    ("ort", "stock", ""),
    ("ort", "native", ""),
    ("ort-int8", "ort", "vnni"),
    ("openvino", "ort", ""),
    ("openvino-int8", "openvino", "vnni"),
    ("openvino-int8", "ort-int8", ""),
    ("ort", "parent", ""),
    ("ort-int8", "parent-int8", ""),
)
VNNI_GOAL = ">= 1.5"


def write_models(folder: Path, side: int) -> None:
    """Export both networks, quantise them, and write four files."""
    import mindcv
    import mindspore as ms
    import numpy as np
    import onnx

    import mindcv_ghost  # noqa: F401 (registers the zoo)
    from mindcv_ghost.export.onnx_file import build_onnx
    from mindcv_ghost.export.quantisation.calibration import calibrate
    from mindcv_ghost.export.quantisation.insertion import insert_quantisation, prepare
    from mindcv_ghost.export.quantisation.scheme import choose_scheme

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_seed(1)
    images = np.random.default_rng(0).normal(size=(4, 3, side, side)).astype(np.float32)
    for model, name in ((MODEL, "ort"), (PARENT, "parent")):
        network = mindcv.create_model(model)
        exported = build_onnx(
            network, image_size=(side, side), in_channels=3, dynamic=("batch",), fp16=False
        )
        onnx.save(exported, folder / f"{name}.onnx")
        prepared = prepare(exported)
        ranges = calibrate(prepared, [images], "MinMax")
        quantised = insert_quantisation(prepared, ranges, choose_scheme("onnxruntime"))
        onnx.save(quantised, folder / f"{name}-int8.onnx")


def ort_runner(path: Path, side: int) -> Callable[[Any], object]:
    session = ort_session(path)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def ort_session(path: Path, **options: Any) -> Any:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = THREADS
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def openvino_runner(
    path: Path, side: int, batches: Iterable[int] = tuple(RUNS)
) -> Callable[[Any], object]:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": THREADS,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    requests = {}
    for batch in batches:
        model = core.read_model(path)
        model.reshape([batch, 3, side, side])
        requests[batch] = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda images: requests[len(images)].infer([images])


def torch_network(folded: bool) -> tuple[Any, Any]:
    from tests.helpers.needs_torch import torch_and_timm

    torch, _ = torch_and_timm()
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    from tests.parity.ghost_torch import GhostResNet50

    torch.manual_seed(1)
    torch.set_num_threads(THREADS)
    network = GhostResNet50().train(False)
    for module in network.modules() if folded else ():
        children = list(module.named_children())
        for (first, conv), (second, norm) in zip(children, children[1:]):
            if isinstance(conv, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                setattr(module, first, fuse_conv_bn_eval(conv, norm))
                setattr(module, second, torch.nn.Identity())
    return torch, network


def torch_runner(compiled: bool) -> Callable[[Any], object]:
    torch, network = torch_network(folded=True)
    network = network.to(memory_format=torch.channels_last)
    forward = torch.compile(network, dynamic=False) if compiled else network

    def run(images: Any) -> object:
        with torch.inference_mode():
            given = torch.from_numpy(images).to(memory_format=torch.channels_last)
            return forward(given).numpy()

    return run


def torch_export_runner(path: Path, side: int) -> Callable[[Any], object]:
    torch, network = torch_network(folded=False)
    export_torch(torch, network, path, side)
    return ort_runner(path, side)


def export_torch(torch: Any, network: Any, path: Path, side: int) -> None:
    """Export a network of PyTorch's, in evaluation mode, for any batch size."""
    with contextlib.redirect_stdout(sys.stderr):  # it prints its progress
        torch.onnx.export(
            network,
            (torch.randn(2, 3, side, side),),
            str(path),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["image"],
            output_names=["logits"],
            external_data=False,
        )


def mindspore_runner(native: bool) -> Callable[[Any], object]:
    import mindcv
    import mindspore as ms

    import mindcv_ghost

    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    network = mindcv.create_model(MODEL).set_train(False)
    if native and mindcv_ghost.accelerate(network).threads == 0:
        raise SystemExit("this package's operators can't be built")
    return lambda images: network(ms.Tensor(images)).asnumpy()


def make_runner(who: str, folder: Path, side: int) -> Callable[[Any], object]:
    if who in ("native", "stock"):
        return mindspore_runner(who == "native")
    if who in ("torch", "torch-compile"):
        return torch_runner(who == "torch-compile")
    if who == "torch-export":
        return torch_export_runner(folder / "torch-export.onnx", side)
    if who.startswith("openvino"):
        return openvino_runner(folder / f"{who.replace('openvino', 'ort')}.onnx", side)
    return ort_runner(folder / f"{who}.onnx", side)


def serve_turns(who: str, folder: Path, side: int) -> None:
    """Run a participant that takes a turn for each line on standard input, answered with JSON.

    Its first line has the seconds of a turn; a turn's has the seconds of a run by batch size.
    """
    import numpy as np

    run = make_runner(who, folder, side)
    random = np.random.default_rng(0)
    shapes = {batch: (batch, 3, side, side) for batch in RUNS}
    images = {b: random.normal(size=shape).astype(np.float32) for b, shape in shapes.items()}

    def turn() -> dict[str, float]:
        found = {}
        for batch, runs in RUNS.items():
            seconds = []
            for _ in range(runs):
                started = time.perf_counter()
                run(images[batch])
                seconds.append(time.perf_counter() - started)
            found[str(batch)] = statistics.median(seconds)
        return found

    turn()  # compiles what is compiled for a shape
    print(json.dumps({"seconds": sum(turn()[str(b)] * runs for b, runs in RUNS.items())}))
    sys.stdout.flush()
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


def profile(folder: Path, side: int) -> None:
    """Print as JSON: milliseconds of one image by part of the network, and numbers of nodes."""
    import numpy as np
    import onnx

    images = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    found = {}
    for path in sorted(folder.glob("*.onnx")):
        optimised = folder / f"{path.stem}.optimised"
        settings = {
            "optimized_model_filepath": str(optimised),
            "enable_profiling": True,
            "profile_file_prefix": str(folder / path.stem),
        }
        session = ort_session(path, **settings)
        name = session.get_inputs()[0].name
        for _ in range(30):
            session.run(None, {name: images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = onnx.load(optimised).graph.node
        found[path.stem] = {"nodes": len(nodes), "parts": parts_of(events, nodes)}
    print(json.dumps(found), flush=True)


def parts_of(events: list[dict], nodes: Any) -> dict[str, float]:
    """Return the milliseconds of a run by part, each node's median over the runs."""
    groups = {
        node.name: next((each.i for each in node.attribute if each.name == "group"), 1)
        for node in nodes
    }
    durations = collections.defaultdict(list)
    types = {}
    for event in events:
        name = event["name"].removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name != event["name"]:
            durations[name].append(event["dur"])
            types[name] = event["args"]["op_name"]
    parts: dict[str, float] = collections.defaultdict(float)
    for name, spans in durations.items():
        parts[part_of(types[name], groups.get(name, 1))] += statistics.median(spans) / 1000
    return parts


def part_of(kind: str, groups: int) -> str:
    """Return the part of the network that a node belongs to.

    >>> part_of("QLinearConv", 64), part_of("FusedConv", 1), part_of("QLinearConcat", 1)
    ('depthwise convolutions', 'dense convolutions', 'concatenations')
    """
    if "Conv" in kind:
        return "depthwise convolutions" if groups > 1 else "dense convolutions"
    if "Concat" in kind:
        return "concatenations"
    return "sums, ReLU, pooling, classifier, layout"


def print_parts(profiles: dict[str, dict], side: int) -> None:
    """Print the rows of the profile, ours against the dense parent's."""
    for name, words in (("", "float32"), ("-int8", "int8")):
        ours, parent = profiles[f"ort{name}"]["parts"], profiles[f"parent{name}"]["parts"]
        for part in ours:
            theirs = parent.get(part)
            print_row(
                "Where the time of one image goes",
                f"{MODEL}, {words}, {side}x{side}, {part}",
                ours[part],
                "ms",
                f"{PARENT}, {words}" if theirs else "",
                theirs,
                theirs / ours[part] if theirs else None,
            )
    if "torch-export" in profiles:
        ours_nodes, theirs_nodes = (profiles[who]["nodes"] for who in ("ort", "torch-export"))
        print_row(
            "Nodes after ONNX Runtime's optimiser",
            f"{MODEL}, exported, float32",
            ours_nodes,
            "nodes",
            "PyTorch's export",
            theirs_nodes,
            theirs_nodes / ours_nodes,
            ">= 1",
        )


def print_ratios(rounds: list[dict[str, dict[str, float]]], side: int, vnni: bool) -> None:
    """Print a row for each batch size and comparison that was measured."""
    for batch in map(str, RUNS):
        for ours, rival, goal in ROWS:
            both = [each for each in rounds if ours in each and rival in each]
            if not both:
                continue
            size = f"{batch} image{'s' if batch != '1' else ''} of {side}x{side}"
            print_row(
                "Inference of the exported network",
                f"{MODEL}, {NAMES[ours]}, {size}",
                statistics.median(1000 * each[ours][batch] for each in both),
                "ms",
                NAMES[rival],
                statistics.median(1000 * each[rival][batch] for each in both),
                statistics.median(each[rival][batch] / each[ours][batch] for each in both),
                goal if goal != "vnni" else VNNI_GOAL if vnni else "",
            )


def main() -> None:
    """Measure in turn; print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    side, folder = arguments.side, arguments.folder
    if arguments.only == "models":
        write_models(folder, side)
    elif arguments.only == "profile":
        profile(folder, side)
    elif arguments.only:
        serve_turns(arguments.only, folder, side)
    else:
        compare(arguments.rounds, side)


def compare(rounds: int, side: int) -> None:
    """Start the participants, let them take turns, print the rows."""
    from mindcv_ghost.export.quantisation.scheme import choose_scheme

    budget, left_out = TimeBudget(), []
    has_openvino = importlib.util.find_spec("openvino") is not None
    order = [who for who in NAMES if has_openvino or not who.startswith("openvino")]
    if not has_openvino:
        left_out.append("OpenVINO, which isn't installed: pip install 'mindcv-ghost[bench]'")
    scheme = choose_scheme("onnxruntime")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        options = [f"--folder={folder}", f"--side={side}"]
        command = [sys.executable, __file__, *options]
        subprocess.run([*command, "--only=models"], check=True, stdout=sys.stderr)

        def begin(who: str) -> TimedProcess:
            return stack.enter_context(contextlib.closing(TimedProcess(who, options, __file__)))

        processes = start_processes(order, begin, 1, budget)
        turns: dict[str, Callable] = {who: each.turn for who, each in processes.items()}
        done = measure_rounds(turns, rounds, budget)
        print_ratios(done, side, vnni=scheme.activation == "uint8" and not scheme.reduce_range)
        left_out += [NAMES[who] for who in order if not any(who in each for each in done)]
        for process in processes.values():
            process.close()
        try:
            with budget.enforced():
                found = subprocess.run(
                    [*command, "--only=profile"], check=True, stdout=subprocess.PIPE, text=True
                )
            print_parts(json.loads(found.stdout.splitlines()[-1]), side)
        except OutOfTime:
            left_out.append("the profile")
    fail_if_left_out(left_out)


if __name__ == "__main__":
    main()
