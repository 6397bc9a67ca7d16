"""Checks of saving: checkpoints and states are written, read, and resumed from."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from mindcv_ghost.doctor.options import EPOCHS
from mindcv_ghost.doctor.report import BROKEN, OK, CheckResult
from mindcv_ghost.doctor.trials.network import build_network
from mindcv_ghost.doctor.trials.training import MemoryWriter, Trained, copy_values, run_trainer
from mindcv_ghost.storage.checkpoint import load_weights, save_weights
from mindcv_ghost.storage.resume_folder import FOLDER, ResumeFolder
from mindcv_ghost.storage.training_state import open_state

__all__ = ["check_resume", "relative_difference", "save_and_load"]

# How much a resumed run's weights may differ from the whole run's on a device, relative to their
# norm: sums may be computed in another order each time, and a float16 step is good to 5e-4.
_DEVICE_TOLERANCE = 1e-2


def save_and_load(trained: Trained, folder: Path) -> tuple[CheckResult, Path]:
    """Write what a training writes, and read it back; only rank 0 calls this.

    Args:
        trained: the finished training.
        folder: an empty folder.

    Returns:
        The result, and the path of the state before the last epoch.
    """
    what, prepared = "save and load", trained.prepared
    arrays, network = trained.writer.arrays, prepared.network
    started = time.perf_counter()
    path = ResumeFolder(folder / FOLDER).save(arrays, trained.writer.facts, EPOCHS - 1, 0)
    checkpoint = folder / "doctor.ckpt"
    save_weights(list(network.get_parameters()), checkpoint)
    write_seconds = time.perf_counter() - started
    size = path.stat().st_size + checkpoint.stat().st_size
    started = time.perf_counter()
    read_arrays = open_state(path).read(trained.trainer.state.expected_arrays(1))
    loaded_network = build_network(prepared.session.config, prepared.session.shape.classes)
    load_weights(loaded_network, checkpoint)
    read_seconds = time.perf_counter() - started
    saved = {p.name: p.asnumpy() for p in network.get_parameters()}
    loaded = {p.name: p.asnumpy() for p in loaded_network.get_parameters()}
    different = [*_different_arrays(arrays, read_arrays), *_different_arrays(saved, loaded)]
    if different:
        text = f"{len(different)} arrays were read with different bits: {different[0]}"
        return CheckResult(what, BROKEN, text), path
    text = (
        f"a state and a checkpoint, {size / 1e6:,.0f} MB, written in {write_seconds:.1f} s and "
        f"read in {read_seconds:.1f} s; {len(read_arrays)} + {len(loaded)} arrays are identical to "
        "the bit"
    )
    return CheckResult(what, OK, text, numbers={"bytes": size, "seconds": write_seconds}), path


def check_resume(trained: Trained, path: Path | None) -> CheckResult:
    """Repeat the last epoch from the saved state, and compare with the uninterrupted run.

    Every rank has to call this.

    Args:
        trained: the finished training.
        path: the state before the last epoch; on rank 0, None elsewhere.
    """
    what, prepared = "resume", trained.prepared
    session, batches = prepared.session, prepared.batches
    trainer = prepared.trainer(MemoryWriter({}))
    facts: object = None
    arrays = None
    if path is not None:
        state = open_state(path)
        facts, arrays = state.facts, state.read(trainer.state.expected_arrays(1))
    facts = session.collectives.broadcast_object(facts)
    if not isinstance(facts, dict):
        raise RuntimeError("rank 0 has saved no state")
    # The trained network is set back to the state, in the memory that its compiled graphs use.
    trainer.restore(facts, arrays, prepared.updates_per_epoch)
    if arrays is not None:
        different = _different_arrays(arrays, copy_values(trainer))
        if different:
            text = f"{len(different)} arrays differ from what was loaded: {different[0]}"
            return CheckResult(what, BROKEN, text)
    run_trainer(trainer)
    values = copy_values(trainer)
    different = _different_arrays(trained.values, values)
    steps, updates = batches.steps_per_epoch, prepared.learner.step.updates_done
    text = f"the last {steps} steps again from the saved state, {updates} updates in all: "
    if not different:
        return CheckResult(what, OK, f"{text}identical to the uninterrupted run, bit for bit")
    off = relative_difference(trained.values, values)
    text += f"{len(different)} of {len(values)} arrays differ, by {off:.1e} of their norm"
    numbers = {"off": off}
    if session.device == "CPU":
        return CheckResult(what, BROKEN, f"{text} (none may on the CPU)", numbers=numbers)
    text += f" (at most {_DEVICE_TOLERANCE:.0e} on {session.device})"
    return CheckResult(what, OK if off <= _DEVICE_TOLERANCE else BROKEN, text, numbers=numbers)


def relative_difference(expected: dict[str, np.ndarray], measured: dict[str, np.ndarray]) -> float:
    """Return the norm of the difference relative to the norm of ``expected``, over all arrays.

    >>> relative_difference({"a": np.array([3.0, 4.0])}, {"a": np.array([3.0, 4.5])})
    0.1
    """
    difference = sum(
        float(np.square(value.astype(float) - measured[name].astype(float)).sum())
        for name, value in expected.items()
    )
    norm = sum(float(np.square(value.astype(float)).sum()) for value in expected.values())
    return float(np.sqrt(difference / max(norm, 1e-30)))


def _different_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    return [name for name in one if one[name].tobytes() != other[name].tobytes()]
