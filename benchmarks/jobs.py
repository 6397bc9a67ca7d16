"""What ``run_all.py`` runs, in the page's order, and how long each job may take.

With the time that ``make bench`` needs to write the page they stay below 20 minutes. A job's share
is enough for its start and its shortest round on an idle machine; what a job leaves over the later
ones may use. Most of the time goes into starting the rivals, so few rounds are left out by a
shorter share, and the ratio within a round hardly varies.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["JOBS", "Job"]


@dataclass(frozen=True)
class Job:
    """One program with its arguments.

    Args:
        command: what is typed after ``python benchmarks/``; the results are kept by it.
        effort: more arguments, which say how often is measured, not what.
        seconds: its share of the 20 minutes. It may also use what earlier jobs leave over.
        quick: arguments for a trial, whose numbers mean nothing.
        last: run after the others; it has more rounds, which fill the time that they leave over.
    """

    command: str
    effort: str
    seconds: int
    quick: str
    last: bool = False

    @property
    def script(self) -> str:
        """The script's name without ``.py``."""
        return self.command.split()[0].removesuffix(".py")


_STEP, _TRAINING = "--rounds 1 --steps 1", "--case training"
_SMALL = f"train_step.py --model ghost_resnet20_cifar {_TRAINING} --batch 128 --side 32"
JOBS = (
    Job("train_step.py --case training", "--rounds 15 --steps 1", 46, _STEP, last=True),
    Job("train_step.py --case training --batch 16 --side 224", "--rounds 5 --steps 1", 82, _STEP),
    Job("train_step.py --case code", "--rounds 5 --steps 1", 55, _STEP),
    Job("train_step.py --case pynative", "--rounds 2 --steps 1", 118, _STEP),
    Job(
        "train_step.py --model ghost_resnet50_s4 --case training", "--rounds 5 --steps 1", 42, _STEP
    ),
    Job(f"train_step.py --model ghostnetv2_100 {_TRAINING}", "--rounds 4 --steps 2", 40, _STEP),
    Job(f"{_SMALL} --baseline dadc5ed", "--rounds 6", 58, _STEP),
    Job(f"{_SMALL} --ratio 1", "--rounds 6", 40, _STEP),
    Job("train_step.py --case inference", "--rounds 6 --steps 3", 30, _STEP),
    Job("train_step.py --case inference --batch 8 --side 224", "--rounds 6 --steps 3", 24, _STEP),
    Job("train_step.py --model ghostnetv2_100 --case inference", "--rounds 6 --steps 3", 21, _STEP),
    Job("inference.py", "--rounds 4", 185, "--rounds 1 --side 64"),
    Job("accelerated_inference.py", "--rounds 4", 75, "--rounds 1 --side 64"),
    Job("profile_step.py", "", 56, "--steps 1"),
    Job("profile_step.py --model ghost_resnet20_cifar --batch 128 --side 32", "", 36, "--steps 1"),
    Job("data_loading.py", "--rounds 2", 36, "--rounds 1 --workers 2"),
    Job("train_loop.py", "--rounds 1", 100, "--small"),
    Job("data_parallel.py", "--rounds 1", 54, "--side 32"),
    Job("first_step.py", "--rounds 1", 25, "--side 32"),
    Job("start_up.py", "--pairs 2", 20, "--pairs 1"),
    Job("jit_level.py", "--pairs 1 --steps 6", 30, "--steps 1"),
)
