"""The doctor's command line: its own options, and a recipe's keys for everything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mindcv_ghost.config import Config, load_config
from mindcv_ghost.config.command_line import read_command_line
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.program import program

__all__ = ["DOCTORS_OPTIONS", "EPOCHS", "Options", "help_text", "parse_options", "trial_config"]

EPOCHS = 10
"""Epochs into which the training steps are divided; a resumed run repeats the last one."""

_DEVICES = ("Ascend", "GPU", "CPU", "auto")
_STEPS = 200  # more than the 128 batches that a device's queue holds
_CPU_SIDE, _CPU_BATCH = 64, 4

_HELP = """\
usage: {doctor} [--device D] [--ranks N] [--config RECIPE] [--key value ...]

Checks this machine part by part, as training will use it, and reports what is broken or slow.
Under mpirun, srun or msrun it checks all ranks together:

  mpirun -n 8 {doctor} --config RECIPE
  msrun --worker_num 8 --local_worker_num 8 --join True PATH/mindcv_ghost/doctor/__main__.py

  --device D       Ascend, GPU, CPU or auto (default: the recipe's, or auto)
  --ranks N        start N processes; only without a launcher
  --light          only the checks that don't need MindSpore; takes seconds
  --steps N        training steps, a multiple of 10 (default 200)
  --patience S     time limit of every check in seconds, instead of each check's own limit
  --json           one JSON object as the last line of standard output, the rest on standard error
  --config RECIPE  the recipe that is to run here (default: ghost_resnet50)
  --key value      any of the recipe's keys ({train} --help lists them); the speed of
                   --data_dir and --ckpt_save_dir is measured

On the CPU images are 64x64 and batches have 4 images, unless --image_resize and --batch_size are
given. Exit status: 0 nothing is broken, 1 something is, 2 the command line is wrong."""

# Used without a recipe; the same values as in the shipped recipes.
_WITHOUT_RECIPE: dict[str, dict[str, object]] = {
    "model": {"model": "ghost_resnet50"},
    "optimizer": {"opt": "momentum", "weight_decay": 1e-4},
    "dataset": {"batch_size": 32},
    "scheduler": {"lr": 0.1},
}
_HALF_PRECISION: dict[str, object] = {
    "amp_level": "O2",
    "loss_scale_type": "dynamic",
    "loss_scale": 65536.0,
    "drop_overflow_update": True,
}


def help_text() -> str:
    """Return what ``--help`` prints."""
    return _HELP.format(doctor=program("doctor"), train=program("train"))


@dataclass(frozen=True)
class Options:
    """A parsed command line.

    Args:
        config: the recipe with the command line's keys applied.
        given: keys that the command line sets.
        ranks: processes to start; 0 if ``--ranks`` isn't given.
        light: run only the checks that don't need MindSpore.
        steps: training steps.
        patience: time limit of every check in seconds; 0 for each check's own.
        json: print a JSON object.
        help: print only the help.
    """

    config: Config = dataclasses.field(default_factory=Config)
    given: frozenset[str] = frozenset()
    ranks: int = 0
    light: bool = False
    steps: int = _STEPS
    patience: float = 0.0
    json: bool = False
    help: bool = False


def parse_options(argv: Sequence[str]) -> Options:
    """Parse the command line.

    Args:
        argv: without the program's name.

    Raises:
        ConfigError: with what was given, what is legal, and how to fix it.

    >>> parse_options(["--ranks", "2", "--json"]).ranks
    2
    """
    own, rest = _own_options(argv)
    if own.pop("help", False):
        return Options(help=True)
    device = own.pop("device", "")
    if device:
        rest += ["--device_target", device]
    given = frozenset(read_command_line(rest).values)
    return Options(config=load_config(rest, script="train"), given=given, **own)


def _own_options(argv: Sequence[str]) -> tuple[dict, list[str]]:
    """Separate the doctor's own options, with parsed values, from the recipe's keys."""
    own: dict = {}
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-h", "--help"):
            own["help"] = True
        elif word in _FLAGS:
            own[word[2:]] = True
        elif name in _OPTIONS:
            if not equals:
                value = words.pop(0) if words and not words[0].startswith("--") else ""
            own[name[2:]] = _OPTIONS[name](name, value)
        else:
            rest.append(word)
    return own, rest


def _device(name: str, text: str) -> str:
    for device in _DEVICES:
        if text.lower() == device.lower():
            return device
    raise ConfigError(f"{name}: {text!r} isn't legal; give one of {', '.join(_DEVICES)}")


def _ranks(name: str, text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 4096:
        return int(text)
    raise ConfigError(f"{name}: {text!r} isn't legal; give a whole number from 1 to 4096")


def _steps(name: str, text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) % EPOCHS == 0 and 20 <= int(text) <= 10**6:
        return int(text)
    raise ConfigError(f"{name}: {text!r} isn't legal; give a multiple of {EPOCHS}, at least 20")


def _patience(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if 1 <= seconds <= 10**6:
        return seconds
    raise ConfigError(f"{name}: {text!r} isn't legal; give seconds, at least 1")


_OPTIONS = {"--device": _device, "--ranks": _ranks, "--steps": _steps, "--patience": _patience}
_FLAGS = ("--json", "--light")
DOCTORS_OPTIONS = (*_OPTIONS, *_FLAGS)
"""Options of the doctor's own; all others are a recipe's keys."""


def trial_config(options: Options, device: str) -> Config:
    """Derive the configuration of a short training whose loss must fall.

    Precision, loss scale, optimizer, gradient accumulation, EMA and graph mode are the recipe's.
    On the CPU, images are small. The learning rate is constant and at most 0.01: 200 steps of a
    warm-up, or at 0.1 from random weights, wouldn't show whether the loss falls. Nothing is loaded
    or validated.

    Args:
        options: the command line.
        device: Ascend, GPU or CPU.
    """
    config = options.config
    sections = {name: dict(values) for name, values in _WITHOUT_RECIPE.items()}
    if device != "CPU":
        sections["amp"] = _HALF_PRECISION
    if config.path:
        sections = {"model": _WITHOUT_RECIPE["model"]}
    for section, values in sections.items():
        free = {key: value for key, value in values.items() if key not in config.explicit}
        config = _with(config, section, **free)
    if device == "CPU":
        if "image_resize" not in options.given:
            side = config.augment.image_resize
            small = side if isinstance(side, int) and side < _CPU_SIDE else _CPU_SIDE
            config = _with(config, "augment", image_resize=small)
        if "batch_size" not in options.given:
            batch = min(config.dataset.batch_size, _CPU_BATCH)
            config = _with(config, "dataset", batch_size=batch)
    if config.loss.loss == "jsd":  # compares three equal parts of a batch
        config = _with(config, "dataset", batch_size=-(-config.dataset.batch_size // 3) * 3)
    config = _with(config, "system", val_while_train=False)
    config = _with(config, "model", pretrained=False, ckpt_path="", reset_head=False)
    config = _with(config, "checkpoint", resume="", resume_opt=False, save_every_minutes=None)
    config = _with(config, "checkpoint", save_every_steps=None)
    config = _with(config, "train", epoch_size=EPOCHS, dataset_sink_mode=False)
    return _with(
        config,
        "scheduler",
        scheduler="constant",
        warmup_epochs=0,
        decay_epochs=EPOCHS,
        lr=min(config.scheduler.lr, 0.01) or 0.01,
        min_lr=0.0,
    )


def _with(config: Config, section: str, **values: object) -> Config:
    changed = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **{section: changed})
