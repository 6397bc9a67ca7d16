"""What ``run_all.py`` runs, in the page's order, and how long each job may take.

With the time that ``make bench`` needs to write the page they stay below 30 minutes. A job's share
is enough for its shortest round on a busy machine; on an idle machine most jobs leave time over.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["JOBS", "Job"]


@dataclass(frozen=True)
class Job:
    """One program with its arguments.

    Args:
        command: what is typed after ``python benchmarks/``.
        seconds: its share of the 30 minutes. It may also use what earlier jobs leave over.
        quick: arguments for a trial, whose numbers mean nothing.
        last: run after the others; it has more rounds, which fill the time that they leave over.
    """

    command: str
    seconds: int
    quick: str
    last: bool = False

    @property
    def script(self) -> str:
        """The script's name without ``.py``."""
        return self.command.split()[0].removesuffix(".py")


_STEP = "--rounds 1 --steps 1"
JOBS = (
    Job("train_step.py --case training --rounds 15 --steps 1", 124, _STEP, last=True),
    Job("train_step.py --case training --batch 16 --side 224 --rounds 8 --steps 1", 115, _STEP),
    Job("train_step.py --case code --rounds 8 --steps 1", 80, _STEP),
    Job("train_step.py --case pynative --rounds 2 --steps 1", 80, _STEP),
    Job("train_step.py --model ghost_resnet50_s4 --case training --rounds 8 --steps 1", 70, _STEP),
    Job("train_step.py --model ghostnetv2_100 --case training --rounds 8 --steps 2", 65, _STEP),
    Job("train_step.py --case inference --rounds 12 --steps 3", 60, _STEP),
    Job("train_step.py --case inference --batch 8 --side 224 --rounds 15 --steps 3", 58, _STEP),
    Job("train_step.py --model ghostnetv2_100 --case inference --rounds 12 --steps 3", 45, _STEP),
    Job("inference.py --rounds 12", 560, "--rounds 1 --side 64"),
    Job("accelerated_inference.py --rounds 8", 80, "--rounds 1 --side 64"),
    Job("profile_step.py", 83, "--steps 1"),
    Job("data_loading.py --rounds 2", 45, "--rounds 1 --workers 2"),
    Job("train_loop.py --rounds 1", 165, "--small"),
    Job("data_parallel.py --rounds 1", 95, "--side 32"),
    Job("first_step.py --rounds 1", 32, "--side 32"),
    Job("start_up.py --pairs 2", 22, "--pairs 1"),
    Job("jit_level.py --pairs 1 --steps 6", 34, "--steps 1"),
)
