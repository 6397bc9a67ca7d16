"""Checkpoints and states: written, read, and gone on from."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from mindcv_ghost.doctor.findings import BROKEN, OK, Finding
from mindcv_ghost.doctor.training import Recorder, Trial, built
from mindcv_ghost.doctor.usage import EPOCHS
from mindcv_ghost.storage.checkpoint import load_weights, save_weights
from mindcv_ghost.storage.resume_folder import FOLDER, ResumeFolder, find_state

__all__ = ["difference", "resume", "save"]

# How far a resumed run's weights may lie from the whole run's, of their norm, on a device: its sums
# may come in another order each time, and a float16 step is good to 5e-4.
_DEVICE_TOLERANCE = 1e-2


def save(trial: Trial, folder: Path | None) -> Finding:
    """Write what a training writes, and read it back.

    Args:
        trial: after its training.
        folder: of the doctor's own in the run folder; rank 0's.
    """
    what = "save and load"
    if not trial.world.is_main:
        return Finding(what, OK)
    arrays, network = trial.recorder.arrays, trial.learner.step.model
    started = time.perf_counter()
    files = ResumeFolder(folder / FOLDER)
    path = files.save(arrays, trial.recorder.facts, EPOCHS - 1, 0)
    checkpoint = folder / "doctor.ckpt"
    save_weights(list(network.get_parameters()), checkpoint)
    wrote = time.perf_counter() - started
    size = path.stat().st_size + checkpoint.stat().st_size
    started = time.perf_counter()
    state = find_state(str(folder), folder)
    again = state.read(trial.trainer.state.expected_arrays(1))
    fresh = built(trial.config, trial.shape.classes)
    load_weights(fresh, checkpoint)
    read = time.perf_counter() - started
    loaded = {p.name: p.asnumpy() for p in fresh.get_parameters()}
    saved = {p.name: p.asnumpy() for p in network.get_parameters()}
    wrong = [*_other_bits(arrays, again), *_other_bits(saved, loaded)]
    if wrong:
        return Finding(what, BROKEN, f"{len(wrong)} arrays come back with other bits: {wrong[0]}")
    text = (
        f"a state and a checkpoint, {size / 1e6:,.0f} MB, written in {wrote:.1f} s and read in "
        f"{read:.1f} s; {len(again)} + {len(loaded)} arrays come back bit for bit"
    )
    return Finding(what, OK, text, numbers={"bytes": size, "seconds": wrote})


def resume(trial: Trial, folder: Path | None) -> Finding:
    """Go on from the state before the last tenth, and come to where the whole run came.

    Every rank has to call it; arguments as for :func:`save`.
    """
    what, step = "resume", trial.learner.step
    facts, arrays = {}, None
    recorder = Recorder({})
    trainer = trial.new_trainer(trial.learner, trial.batches, trial.config, recorder)
    if trial.world.is_main:
        state = find_state(str(folder), folder)
        facts, arrays = state.facts, state.read(trainer.state.expected_arrays(1))
    facts = trial.collectives.broadcast_object(facts)
    # The network that has run goes back to the state, in the memory that its graphs use.
    trainer.restore(facts, arrays, trial.updates)
    if arrays is not None:
        wrong = _other_bits(arrays, trial.values(trainer))
        if wrong:
            text = f"{len(wrong)} arrays of the network aren't what was loaded: {wrong[0]}"
            return Finding(what, BROKEN, text)
    trial.run(trainer)
    again = trial.values(trainer)
    wrong = _other_bits(trial.final, again)
    steps, done = trial.batches.steps_per_epoch, step.updates_done
    text = f"the last {steps} steps again from the saved state, {done} updates in all: "
    if not wrong:
        return Finding(what, OK, f"{text}the same as the whole run, bit for bit")
    off = difference(trial.final, again)
    text += f"{len(wrong)} of {len(again)} arrays have other bits, off by {off:.1e} of their norm"
    if trial.device == "CPU":
        return Finding(what, BROKEN, f"{text} (none may on the CPU)", numbers={"off": off})
    text += f" (at most {_DEVICE_TOLERANCE:.0e} on {trial.device})"
    return Finding(what, OK if off <= _DEVICE_TOLERANCE else BROKEN, text, numbers={"off": off})


def difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Norm of the difference by the norm of the first, over all arrays.

    >>> difference({"a": np.array([3.0, 4.0])}, {"a": np.array([3.0, 4.5])})
    0.1
    """
    off = sum(float(np.square(one[n].astype(float) - other[n].astype(float)).sum()) for n in one)
    norm = sum(float(np.square(value.astype(float)).sum()) for value in one.values())
    return float(np.sqrt(off / max(norm, 1e-30)))


def _other_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    return [name for name in one if one[name].tobytes() != other[name].tobytes()]
