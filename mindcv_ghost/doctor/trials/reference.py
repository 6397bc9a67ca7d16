"""Loss and gradients of one step in float32 on the CPU by MindSpore's own operators.

A child process computes them: ``python -m mindcv_ghost.doctor.trials.reference FOLDER`` reads
``config.yaml``, ``weights.npz`` and ``batch.json`` in the folder and writes ``gradients.npz``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import mindspore as ms
import numpy as np

from mindcv_ghost import compat
from mindcv_ghost.config import Config, load_config
from mindcv_ghost.doctor.trials.batches import BatchShape, make_batch
from mindcv_ghost.doctor.trials.network import build_network
from mindcv_ghost.engine.step import NetworkWithLoss
from mindcv_ghost.launch.environment import with_package_path, without_launcher
from mindcv_ghost.run.learner import create_loss

__all__ = ["LOSS", "compute", "main"]

LOSS = "the loss"
"""Key of the loss among the gradients."""


def compute(
    folder: Path,
    config: Config,
    weights: Mapping[str, np.ndarray],
    shape: BatchShape,
    ranks: int,
    seconds: float,
) -> dict[str, np.ndarray]:
    """Compute the reference in a child process.

    Args:
        folder: for the files that are passed.
        config: of the training.
        weights: the network's parameters by name.
        shape: of a rank's batch.
        ranks: number of ranks; the gradients of their batches are averaged.
        seconds: time limit.

    Returns:
        Gradients by parameter name, and the loss under ``LOSS``.

    Raises:
        RuntimeError: if the process fails; with the last line of its output.
    """
    # The network itself stays the same: names and shapes must match.
    plain = dataclasses.replace(
        config,
        system=dataclasses.replace(
            config.system, device_target="CPU", mode=1, native_kernels=False, distribute=None
        ),
        amp=dataclasses.replace(config.amp, amp_level="O0", amp_cast_list=None),
    )
    (folder / "config.yaml").write_text(plain.to_yaml(), encoding="utf-8")
    np.savez(folder / "weights.npz", **weights)
    batch = {"shape": dataclasses.asdict(shape), "ranks": ranks}
    (folder / "batch.json").write_text(json.dumps(batch), encoding="utf-8")
    environ = {
        name: value
        for name, value in without_launcher(os.environ).items()
        if not name.startswith(("MS_SCHED", "MS_WORKER", "OMP_NUM_THREADS"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "mindcv_ghost.doctor.trials.reference", str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        env=with_package_path(environ),
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
        raise RuntimeError(
            f"computing the reference on the CPU failed (status {done.returncode}): {lines[-1]}"
        )
    with np.load(folder / "gradients.npz") as file:
        return {name: file[name] for name in file.files}


def main(folder: Path) -> None:
    """Compute the reference from the files that ``compute`` has written; ends the process."""
    batch = json.loads((folder / "batch.json").read_text(encoding="utf-8"))
    shape, ranks = BatchShape(**batch["shape"]), batch["ranks"]
    config = load_config(["--config", str(folder / "config.yaml")])
    compat.set_up("CPU", 0, config.system.mode, None)
    network = build_network(config, shape.classes)
    with np.load(folder / "weights.npz") as file:
        for parameter in network.get_parameters():
            parameter.set_data(ms.Tensor(file[parameter.name], parameter.dtype))
    with_loss = NetworkWithLoss(network, create_loss(config.loss))
    with_loss.set_train()
    trained = network.trainable_params()
    differentiate = ms.value_and_grad(with_loss, None, trained, has_aux=True)
    batches = [make_batch(shape, config.system.seed, rank) for rank in range(ranks)]
    if config.train.sync_bn:  # batch statistics are those of all ranks' images together
        images, labels = zip(*batches)
        batches = [(np.concatenate(images), np.concatenate(labels))]
    means: dict[str, np.ndarray] = {}
    for image, label in batches:
        (loss, _), gradients = differentiate(ms.Tensor(image), ms.Tensor(label))
        values = {p.name: g.asnumpy() for p, g in zip(trained, gradients)}
        values[LOSS] = loss.asnumpy()
        for name, value in values.items():
            means[name] = means.get(name, 0) + value.astype(np.float64) / len(batches)
    np.savez(folder / "gradients.npz", **means)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
