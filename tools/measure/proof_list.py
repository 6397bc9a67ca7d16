"""The experiments of docs/proof.md: rows, their recipes and seeds, and the order of the runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "DATA_SETS",
    "EPOCHS",
    "IMAGES",
    "PAIR",
    "PREDICTIONS",
    "QUICK",
    "QUESTIONS",
    "ROWS",
    "Experiment",
    "Prediction",
    "Row",
    "experiments",
    "rows_of",
]

EPOCHS = 15
"""Budget of all networks that are compared."""

SEEDS = (0, 1, 2)
DATA_SETS = {"cifar10_jpeg": "CIFAR-10 as JPEG", "fashion_mnist": "Fashion-MNIST"}
"""The recipes' last word -> title."""

IMAGES = {"cifar10_jpeg": (50_000, 10_000), "fashion_mnist": (60_000, 10_000)}
"""Training and test images of each data set: a part of it proves something else."""

PAIR = ("resnet20", "ghost_resnet20")
"""The rows of the main question: the parent, and the Ghost network."""


@dataclass(frozen=True)
class Row:
    """A network and its training; each of its seeds is an experiment.

    Args:
        title: for people.
        recipe: the recipe's name without the data set, e.g. ``ghost_resnet20_cifar_s3``.
        question: the key of :data:`QUESTIONS` that it belongs to.
        seeds: of the runs.
        epochs: to train. With 0 the network is validated as a training would start with it.
        warmup: epochs of warm-up, where ``epochs`` isn't the recipe's.
        needs: row whose weights (seed 0) it starts from, or is taught by; "" for none.
    """

    title: str
    recipe: str
    question: str
    seeds: tuple[int, ...] = (0,)
    epochs: int = EPOCHS
    warmup: int = 1
    needs: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """What is given beside the recipe."""
        if self.epochs in (0, EPOCHS):
            return ()
        lengths = (self.epochs, self.warmup, self.epochs - self.warmup)
        keys = ("--epoch_size", "--warmup_epochs", "--decay_epochs")
        return tuple(word for key, value in zip(keys, lengths) for word in (key, str(value)))

    @property
    def is_a_network(self) -> bool:
        """Whether the row is another network than the others, trained with the common budget."""
        return not self.needs and self.epochs == EPOCHS

    @property
    def is_compared(self) -> bool:
        """Whether the row is such a network, or the same one with a teacher."""
        return self.is_a_network or self.question == "distilled"


QUESTIONS = {
    "parent": "Does a Ghost network keep its parent's accuracy at half the operations?",
    "thin": "Is it better than a thinner network of as many operations?",
    "deep": "What does a deeper network give without Ghost modules?",
    "shallow": "Is it better than a shallower network?",
    "s_d": "What do s and d cost?",
    "fit": "Does a fitted start beat a random one?",
    "distilled": "Does a teacher help?",
    "long": "What does a longer training give?",
    "quick": "What does the quick trial give?",
}

QUICK = "quick"
_R20, _R56 = "ghost_resnet20_cifar", "ghost_resnet56_cifar"
_FIT = "Ghost-ResNet-20 fitted to ResNet-20"
_RANDOM = "Ghost-ResNet-20 from random weights"
ROWS = {
    "resnet20": Row("ResNet-20", f"{_R20}_s1", "parent", SEEDS),
    "ghost_resnet20": Row("Ghost-ResNet-20, s = 2, d = 1", _R20, "parent", SEEDS),
    "resnet56": Row("ResNet-56", f"{_R56}_s1", "parent"),
    "ghost_resnet56": Row("Ghost-ResNet-56, s = 2, d = 1", _R56, "parent"),
    "thin": Row("ResNet-20 with 0.715 of the channels", f"{_R20}_thin", "thin", SEEDS),
    **{f"s{s}": Row(f"Ghost-ResNet-20, s = {s}", f"{_R20}_s{s}", "s_d") for s in (3, 4, 5)},
    **{f"d{d}": Row(f"Ghost-ResNet-20, d = {d}", f"{_R20}_d{d}", "s_d") for d in (3, 5)},
    "fit_0": Row(_FIT, f"{_R20}_fit", "fit", epochs=0, needs="resnet20"),
    "fit_1": Row(_FIT, f"{_R20}_fit", "fit", epochs=1, warmup=0, needs="resnet20"),
    "fit_3": Row(_FIT, f"{_R20}_fit", "fit", epochs=3, needs="resnet20"),
    "fit_15": Row(_FIT, f"{_R20}_fit", "fit", needs="resnet20"),
    "random_1": Row(_RANDOM, _R20, "fit", epochs=1, warmup=0),
    "random_3": Row(_RANDOM, _R20, "fit", epochs=3),
    "distilled": Row(
        "Ghost-ResNet-20 taught by ResNet-56", f"{_R20}_distilled", "distilled", SEEDS,
        needs="resnet56",
    ),
    "resnet20_long": Row("ResNet-20", f"{_R20}_s1", "long", epochs=45),
    "ghost_resnet20_long": Row("Ghost-ResNet-20, s = 2, d = 1", _R20, "long", epochs=45),
    QUICK: Row("Ghost-ResNet-20, s = 2, d = 1", _R20, "quick", SEEDS, epochs=2),
}  # fmt: skip

_OTHERS = ("s3", "s4", "s5", "d3", "d5", "fit_0", "fit_1", "fit_3", "fit_15", "random_1")
_OTHERS += ("random_3",)
_LONG = ("resnet20_long", "ghost_resnet20_long")
# In this order; a block's first seeds are run before its second ones.
_BLOCKS = (
    ("cifar10_jpeg", PAIR),
    ("fashion_mnist", PAIR),
    ("cifar10_jpeg", ("thin",)),
    ("cifar10_jpeg", ("resnet56", "ghost_resnet56", *_OTHERS)),
    ("fashion_mnist", ("resnet56", "distilled")),
    ("fashion_mnist", _LONG),
    ("fashion_mnist", (QUICK,)),
)


@dataclass(frozen=True)
class Prediction:
    """What was expected of a row; written before the first recorded run.

    Args:
        expected: in words.
        data: a key of :data:`DATA_SETS`.
        row: a key of :data:`ROWS`.
        other: the row that it is compared with; "" if the expectation is an accuracy.
    """

    expected: str
    data: str
    row: str
    other: str = ""


PREDICTIONS = (
    Prediction("94.5", "fashion_mnist", "resnet20"),
    Prediction("-0.3", "fashion_mnist", "ghost_resnet20", "resnet20"),
    Prediction("91.0", "cifar10_jpeg", "resnet20"),
    Prediction("-1.5", "cifar10_jpeg", "ghost_resnet20", "resnet20"),
    Prediction("below 0", "cifar10_jpeg", "thin", "resnet20"),
    Prediction("above 0", "cifar10_jpeg", "thin", "ghost_resnet20"),
    Prediction("-0.5", "cifar10_jpeg", "s3", "ghost_resnet20"),
    Prediction("-0.5", "cifar10_jpeg", "s4", "s3"),
    Prediction("-0.5", "cifar10_jpeg", "s5", "s4"),
    Prediction("+0.3", "cifar10_jpeg", "d3", "ghost_resnet20"),
    Prediction("+0.3", "cifar10_jpeg", "d5", "ghost_resnet20"),
    Prediction("above 0", "cifar10_jpeg", "fit_1", "random_1"),
    Prediction("above 0", "cifar10_jpeg", "fit_3", "random_3"),
    Prediction("above 0", "cifar10_jpeg", "fit_15", "ghost_resnet20"),
    Prediction("less than the seeds' spread", "fashion_mnist", "distilled", "ghost_resnet20"),
    Prediction("89", "fashion_mnist", QUICK),
)


@dataclass(frozen=True)
class Experiment:
    """One run.

    Args:
        data: a key of :data:`DATA_SETS`.
        row: a key of :data:`ROWS`.
        seed: of the run.
    """

    data: str
    row: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the run folder and of the recorded files."""
        return f"{self.data}-{self.row}-seed{self.seed}"

    @property
    def recipe(self) -> str:
        """File name of the recipe."""
        return f"{ROWS[self.row].recipe}_{self.data}.yaml"

    @property
    def parent(self) -> Experiment | None:
        """The experiment whose weights this one needs."""
        needs = ROWS[self.row].needs
        return Experiment(self.data, needs, 0) if needs else None


def rows_of(data: str) -> dict[str, Row]:
    """Return the rows that are run on a data set, in the order of :data:`ROWS`."""
    there = {row for name, rows in _BLOCKS for row in rows if name == data}
    return {name: row for name, row in ROWS.items() if name in there}


def experiments() -> list[Experiment]:
    """List all experiments in the order in which they are run."""
    return [
        Experiment(data, row, seed)
        for data, rows in _BLOCKS
        for seed in SEEDS
        for row in rows
        if seed in ROWS[row].seeds
    ]
