"""Loss and gradients of one step in float32 on the CPU by MindSpore's own operators.

A process of its own: ``python -m mindcv_ghost.doctor.reference FOLDER`` finds ``config.yaml``,
``weights.npz`` and ``facts.json`` there and leaves ``gradients.npz``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mindcv_ghost.config import Config, load_config
from mindcv_ghost.doctor.comparison import LOSS
from mindcv_ghost.doctor.synthetic import Shape, batch_of
from mindcv_ghost.launch.environment import with_package_path, without_launcher

__all__ = ["compute", "main"]


def compute(
    folder: Path,
    config: Config,
    weights: Mapping[str, np.ndarray],
    shape: Shape,
    ranks: int,
    seconds: float,
) -> dict[str, np.ndarray]:
    """Have the reference computed by another process.

    Args:
        folder: to pass files in.
        config: of the training.
        weights: parameters of the network by name.
        shape: of a rank's batch.
        ranks: whose batches, and gradients, are averaged.
        seconds: to wait.

    Returns:
        gradients by name, and the loss under ``LOSS``.

    Raises:
        RuntimeError: if it fails; with the last line that it said.
    """
    # Nothing of the network changes: names and shapes have to be the same.
    plain = dataclasses.replace(
        config,
        system=dataclasses.replace(
            config.system, device_target="CPU", mode=1, native_kernels=False, distribute=None
        ),
        amp=dataclasses.replace(config.amp, amp_level="O0", amp_cast_list=None),
    )
    (folder / "config.yaml").write_text(plain.to_yaml(), encoding="utf-8")
    np.savez(folder / "weights.npz", **weights)
    facts = {"shape": dataclasses.asdict(shape), "ranks": ranks}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    environ = {
        name: value
        for name, value in without_launcher(os.environ).items()
        if not name.startswith(("MS_SCHED", "MS_WORKER", "OMP_NUM_THREADS"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "mindcv_ghost.doctor.reference", str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        env=with_package_path(environ),
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
        raise RuntimeError(f"the reference on the CPU fails ({done.returncode}): {lines[-1]}")
    with np.load(folder / "gradients.npz") as file:
        return {name: file[name] for name in file.files}


def main(folder: Path) -> None:
    """Compute what ``compute`` has left in a folder."""
    import mindspore as ms

    import mindcv_ghost  # noqa: F401 (registers the zoo)
    from mindcv_ghost import compat
    from mindcv_ghost.doctor.training import built
    from mindcv_ghost.engine.step import NetworkWithLoss
    from mindcv_ghost.run.learner import create_loss

    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    shape, ranks = Shape(**facts["shape"]), facts["ranks"]
    config = load_config(["--config", str(folder / "config.yaml")])
    compat.set_up("CPU", 0, config.system.mode, None)
    network = built(config, shape.classes)
    with np.load(folder / "weights.npz") as file:
        for parameter in network.get_parameters():
            parameter.set_data(ms.Tensor(file[parameter.name], parameter.dtype))
    with_loss = NetworkWithLoss(network, create_loss(config.loss))
    with_loss.set_train()
    trained = network.trainable_params()
    differentiate = ms.value_and_grad(with_loss, None, trained, has_aux=True)
    batches = [batch_of(shape, config.system.seed, rank) for rank in range(ranks)]
    if config.train.sync_bn:  # statistics of all ranks' images, as one batch has them
        batches = [tuple(np.concatenate(part) for part in zip(*batches))]
    sums: dict[str, np.ndarray] = {}
    for image, label in batches:
        (loss, _), gradients = differentiate(ms.Tensor(image), ms.Tensor(label))
        values = {p.name: g.asnumpy() for p, g in zip(trained, gradients)}
        values[LOSS] = loss.asnumpy()
        for name, value in values.items():
            sums[name] = sums.get(name, 0) + value.astype(np.float64) / len(batches)
    np.savez(folder / "gradients.npz", **sums)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
