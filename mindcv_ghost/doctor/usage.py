"""The doctor's command line: its own options, and a recipe's keys for everything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from mindcv_ghost.config import Config, load_config
from mindcv_ghost.config.command_line import read_command_line
from mindcv_ghost.errors import ConfigError

__all__ = ["EPOCHS", "HELP", "Asked", "examined", "read"]

EPOCHS = 10
"""The steps are told in so many parts, and the last of them is what a resumed run repeats."""

_DEVICES = ("Ascend", "GPU", "CPU", "auto")
_STEPS = 200  # beyond the 128 that a device's queue of batches holds
_CPU_SIDE, _CPU_BATCH = 64, 4

HELP = """\
usage: python -m mindcv_ghost.doctor [--device D] [--ranks N] [--config R.yaml] [--key value ...]

Tries this machine part by part, as training will use it, and says what is broken or slow.
Under mpirun, srun or msrun it tries all ranks together:

  mpirun -n 8 python -m mindcv_ghost.doctor --config R.yaml
  msrun --worker_num 8 --local_worker_num 8 --join True PATH/mindcv_ghost/doctor/__main__.py

  --device D       Ascend, GPU, CPU or auto (default: the recipe's, or auto)
  --ranks N        start N processes, where no launcher has
  --light          only what needs no MindSpore; takes seconds
  --steps N        training steps, a multiple of 10 (default 200)
  --patience S     seconds after which a check that computes has failed, instead of its own
  --json           one JSON object as the last line of standard output, the rest on standard error
  --config FILE    the recipe that is to run here; without one, ghost_resnet50
  --key value      any of the recipe's keys (python train.py --help lists them); --data_dir and
                   --ckpt_save_dir are tried for their speed

On the CPU images have 64 pixels and batches 4 images, unless --image_resize and --batch_size say
otherwise. Exit status: 0 nothing is broken, 1 something is, 2 the command line is wrong."""

# What to try where no recipe says: what the shipped recipes do.
_WITHOUT_RECIPE = {
    "model": {"model": "ghost_resnet50"},
    "optimizer": {"opt": "momentum", "weight_decay": 1e-4},
    "dataset": {"batch_size": 32},
    "scheduler": {"lr": 0.1},
}
_HALF_PRECISION = {
    "amp_level": "O2",
    "loss_scale_type": "dynamic",
    "loss_scale": 65536.0,
    "drop_overflow_update": True,
}


@dataclass(frozen=True)
class Asked:
    """What the command line says.

    Args:
        config: the recipe, with the command line's keys.
        given: keys that stand on the command line.
        ranks: processes to start, 0 if that wasn't asked for.
        light: leave out what needs MindSpore.
        steps: of training.
        patience: seconds for each check that computes, 0 for its own.
        json: print an object.
        help: print the help alone.
    """

    config: Config = dataclasses.field(default_factory=Config)
    given: frozenset[str] = frozenset()
    ranks: int = 0
    light: bool = False
    steps: int = _STEPS
    patience: float = 0.0
    json: bool = False
    help: bool = False


def read(argv: Sequence[str]) -> Asked:
    """Read the command line.

    Raises:
        ConfigError: with what was given, what is legal, and how to mend it.

    >>> read(["--ranks", "2", "--json"]).ranks
    2
    """
    own, rest = _own_options(argv)
    if own.pop("help", False):
        return Asked(help=True)
    device = own.pop("device", "")
    if device:
        rest += ["--device_target", device]
    given = frozenset(read_command_line(rest).values)
    return Asked(config=load_config(rest, script="train"), given=given, **own)


def _own_options(argv: Sequence[str]) -> tuple[dict, list[str]]:
    own: dict = {}
    rest: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-h", "--help"):
            own["help"] = True
        elif word in ("--json", "--light"):
            own[word[2:]] = True
        elif name in ("--device", "--ranks", "--steps", "--patience"):
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


def examined(asked: Asked, device: str) -> Config:
    """Make of what was asked for a training that is short, and whose loss must fall.

    Precision, loss scale, optimizer, accumulation, averages and graphs are the recipe's. Images on
    the CPU are small, the learning rate is steady and at most 0.01 (200 steps of a warm-up, or at
    0.1 from random weights, show nothing), and nothing is loaded or validated.

    Args:
        asked: the command line.
        device: Ascend, GPU or CPU.
    """
    config = asked.config
    sections = {name: dict(values) for name, values in _WITHOUT_RECIPE.items()}
    if device != "CPU":
        sections["amp"] = _HALF_PRECISION
    if config.path:
        sections = {"model": _WITHOUT_RECIPE["model"]}
    for section, values in sections.items():
        free = {key: value for key, value in values.items() if key not in config.explicit}
        config = _with(config, section, **free)
    if device == "CPU":
        if "image_resize" not in asked.given:
            side = config.augment.image_resize
            small = side if isinstance(side, int) and side < _CPU_SIDE else _CPU_SIDE
            config = _with(config, "augment", image_resize=small)
        if "batch_size" not in asked.given:
            batch = min(config.dataset.batch_size, _CPU_BATCH)
            config = _with(config, "dataset", batch_size=batch)
    if config.loss.loss == "jsd":  # compares three equal parts of a batch
        config = _with(config, "dataset", batch_size=-(-config.dataset.batch_size // 3) * 3)
    config = _with(config, "system", val_while_train=False)
    config = _with(config, "model", pretrained=False, ckpt_path="", reset_head=False)
    config = _with(config, "checkpoint", resume="", resume_opt=False, save_every_minutes=None)
    config = _with(config, "checkpoint", save_every_steps=None)
    config = _with(config, "train", epoch_size=EPOCHS, dataset_sink_mode=False)
    rate = min(config.scheduler.lr, 0.01) or 0.01
    steady = {"scheduler": "constant", "warmup_epochs": 0, "lr": rate, "min_lr": 0.0}
    steady["decay_epochs"] = EPOCHS
    return _with(config, "scheduler", **steady)


def _with(config: Config, section: str, **values: object) -> Config:
    changed = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **{section: changed})
