"""MindCV's registry: register the zoo, create a model by name, and the model options of commands.

:func:`create_model` is MindCV's, except that a checkpoint is loaded whole or refused.

Importing this module loads neither MindSpore nor MindCV, and little of Python's library, because
every command starts with it. The zoo is registered whichever of the two packages is imported first.
In MindCV's registry a later model silently replaces an earlier one of the same name.
:func:`register_model` refuses that: the first package to register a name keeps it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from mindcv_ghost.errors import CheckpointError, ConfigError, UserError, did_you_mean, first_line

if TYPE_CHECKING:
    import argparse

    from mindspore import nn

__all__ = [
    "add_model_arguments",
    "check_model_exists",
    "create_model",
    "create_model_by_name",
    "create_model_by_options",
    "parse_model_args",
    "register_model",
    "register_zoo",
]

_PACKAGE = "mindcv_ghost"
_ZOO = "mindcv_ghost.models"
# Defaults of mindcv.create_model, which doesn't say whether its caller gave them.
_MINDCVS_CLASSES, _MINDCVS_CHANNELS = 1000, 3


def _adapt_mindspore() -> None:
    from mindcv_ghost import compat

    compat.settle_numpy()
    atexit.unregister(compat.end_quietly)  # of an import before a reload
    atexit.register(compat.end_quietly)


# What is called after a package has been imported.
_FOLLOW_UPS: dict[str, Callable[[], object]] = {
    "mindspore": _adapt_mindspore,
    "mindcv": lambda: importlib.import_module(_ZOO),
}

EntryPoint = TypeVar("EntryPoint", bound=Callable[..., Any])


def register_model(entry_point: EntryPoint) -> EntryPoint:
    """Register a model with MindCV under its function's name; refuse a name that is taken.

    Registering the same function of the same module again (a reload) is harmless.

    Args:
        entry_point: ``f(pretrained, num_classes, in_channels, **kwargs) -> nn.Cell``. Its module
            has a ``default_cfgs`` with an entry of that name, like MindCV's model files.

    Returns:
        The entry point.

    Raises:
        UserError: if MindCV or another plug-in already has a model of this name.
    """
    from mindcv.models import registry

    name = entry_point.__name__
    if registry.is_model(name):
        owner = registry.model_entrypoint(name).__module__
        if owner != entry_point.__module__:
            raise UserError(
                f"the model name {name!r} of {entry_point.__module__} is already taken by {owner}; "
                f"{_PACKAGE} doesn't replace other packages' models. Import only one of the two "
                f"packages, or rename one of the models."
            )
    return registry.register_model(entry_point)


def register_zoo() -> None:
    """Register this package's models now, or after MindCV has been imported if it isn't yet.

    In the same way MindSpore is adapted: to NumPy 2, and to freeing cells when Python ends.
    """
    if not any(_is_hook(finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _FollowImports())
    for name, follow_up in _FOLLOW_UPS.items():
        if sys.modules.get(name) is not None:  # None forbids an import
            # Waits for the import lock if another thread is still importing it.
            importlib.import_module(name)
            follow_up()


def _is_hook(finder: object) -> bool:
    # Compare names, not classes: reloading this module creates a new class.
    return (type(finder).__module__, type(finder).__name__) == (__name__, "_FollowImports")


class _FollowImports:
    """Finds a package through the other finders, and calls its follow-up after its code has run."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname not in _FOLLOW_UPS:
            return None
        for finder in sys.meta_path:
            find_spec = None if _is_hook(finder) else getattr(finder, "find_spec", None)
            spec = find_spec(fullname, path, target) if find_spec else None
            if spec is not None:
                _call_after_exec(spec, _FOLLOW_UPS[fullname])
                return spec
        return None


def _call_after_exec(spec: ModuleSpec, follow_up: Callable[[], object]) -> None:
    """Call ``follow_up`` after the module of ``spec`` has been executed."""
    loader = spec.loader
    if loader is None or not hasattr(loader, "exec_module"):
        return
    exec_module = loader.exec_module

    def exec_then_follow_up(module: Any) -> None:
        exec_module(module)
        follow_up()

    # Patch this loader object (importlib makes one per import) instead of wrapping it:
    # importlib.resources and inspect use more of a loader than exec_module.
    loader.exec_module = exec_then_follow_up  # type: ignore[method-assign]


def add_model_arguments(parser: argparse.ArgumentParser, num_classes: int | None) -> None:
    """Add ``--in_channels``, ``--num_classes`` and ``--model_args`` to a command line."""
    parser.add_argument("--in_channels", type=int, default=3)
    parser.add_argument("--num_classes", type=int, default=num_classes)
    parser.add_argument(
        "--model_args", nargs="+", default=[], metavar="NAME=VALUE", help="for example ratio=4"
    )


def parse_model_args(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse ``["ratio=4", "act=relu"]`` into keyword arguments, as train.py's ``--model_args``.

    Raises:
        ConfigError: if a word isn't an argument's name with its value, or a name is an option.

    >>> parse_model_args(["ratio=4", "deploy=true", "act=relu"])
    {'ratio': 4, 'deploy': True, 'act': 'relu'}
    """
    from mindcv_ghost.config.keys import MODEL_ARGUMENTS
    from mindcv_ghost.config.raw_value import IllegalValue, RawValue

    words = [RawValue(pair, "--model_args") for pair in pairs]
    try:
        return MODEL_ARGUMENTS.parse(RawValue(words, "--model_args"))
    except IllegalValue as illegal:
        raise ConfigError(f"--model_args takes {illegal}; given was {' '.join(pairs)}") from None


def check_model_exists(name: str) -> None:
    """Raise a ConfigError if MindCV's registry has no such model, this package's included.

    Raises:
        UserError: if this package can't run with the installed versions.
    """
    from mindcv_ghost import compat

    compat.refuse_unsupported_versions()
    import mindcv

    if not mindcv.is_model(name):
        hint = did_you_mean(name, mindcv.list_models()) or "."
        raise ConfigError(f"there is no model {name!r}{hint} mindcv.list_models() names them all.")


def create_model(
    model_name: str,
    num_classes: int = _MINDCVS_CLASSES,
    pretrained: bool | str | os.PathLike = False,
    in_channels: int = _MINDCVS_CHANNELS,
    checkpoint_path: str = "",
    ema: bool = False,
    auto_mapping: bool = False,
    **kwargs: Any,
) -> nn.Cell:
    """Create a model of MindCV's registry, as ``mindcv.create_model`` does, with its arguments.

    ``checkpoint_path`` differs: MindCV 0.3 returns random weights where the file is missing
    (``models/helpers.py``, ``load_model_checkpoint``) and for every name that it doesn't find. Here
    the file gives every weight or an error. It may be any file that ``--ckpt_path`` takes.

    ``pretrained`` may also be a text, as for ``--pretrained``. MindCV's own defaults, 1000 classes
    and 3 channels, then stand for those of the published network. With another number of classes
    the classifier keeps its initial values, and a warning says so.

    Args:
        model_name: as in ``mindcv.list_models()``.
        num_classes: outputs of the classifier.
        pretrained: True for the weights that MindCV has an address of; or a name that
            ``mindcv-ghost weights`` lists, a folder that ``mindcv-ghost publish`` wrote, or
            ``URL#sha256=DIGITS`` of one.
        in_channels: channels of the images.
        checkpoint_path: a file of weights; "" for none.
        ema: load the averaged weights of that file.
        auto_mapping: let MindCV replace names that the file lacks by similar ones in it. The result
            must fit as well.
        kwargs: further arguments of the model. With ``features_only`` the weights are loaded before
            the classifier is taken off.

    Returns:
        The network.

    Raises:
        CheckpointError: if the file is missing, can't be read, or doesn't fit the network; or there
            are no such published weights.
        ValueError: if ``pretrained`` is given with ``checkpoint_path``, or ``ema`` without it.
        RuntimeError: if there is no such model.
    """
    import mindcv

    if ema and not checkpoint_path:
        raise ValueError(
            "ema=True loads the averaged weights of a file: give it as checkpoint_path, or leave "
            "ema out"
        )
    if isinstance(pretrained, os.PathLike):
        pretrained = os.path.join(os.fspath(pretrained), "")  # a folder, also without a slash
    if isinstance(pretrained, str) and not checkpoint_path:
        return _create_published(
            model_name, num_classes, pretrained, in_channels, auto_mapping, kwargs
        )
    arguments = {"num_classes": num_classes, "in_channels": in_channels}
    if not checkpoint_path or pretrained:  # MindCV refuses both together
        return mindcv.create_model(
            model_name,
            pretrained=pretrained,
            checkpoint_path=checkpoint_path,
            ema=ema,
            auto_mapping=auto_mapping,
            **arguments,
            **kwargs,
        )
    rename = _similar_names if auto_mapping else None
    return _create_loaded(
        model_name, {**arguments, **kwargs}, checkpoint_path, use_ema=ema, rename=rename
    )


def _create_published(
    name: str,
    num_classes: int,
    pretrained: str,
    in_channels: int,
    auto_mapping: bool,
    kwargs: Mapping[str, Any],
) -> nn.Cell:
    """Create a model with the weights that a text names; the arguments are ``create_model``'s."""
    from mindcv_ghost.weights import find_weights

    published = find_weights(pretrained, name)
    card = published.card
    if card.ghostify:
        raise CheckpointError(
            f"pretrained {pretrained!r} is {name} after ghostify, which create_model can't build. "
            f"The commands can (--pretrained); in code, apply mindcv_ghost.surgery.ghostify and "
            f"load {published.weights}"
        )
    if in_channels not in (_MINDCVS_CHANNELS, card.in_channels):
        raise CheckpointError(
            f"pretrained {pretrained!r} is for images of {card.in_channels} channels: leave "
            f"in_channels={in_channels} out"
        )
    own = num_classes == _MINDCVS_CLASSES
    arguments = {
        **card.model_args,
        **kwargs,
        "num_classes": card.num_classes if own else num_classes,
        "in_channels": card.in_channels,
    }
    rename = _similar_names if auto_mapping else None
    return _create_loaded(name, arguments, str(published.weights), rename=rename, reset_head=True)


def _create_loaded(name: str, arguments: dict[str, Any], path: str, **options: Any) -> nn.Cell:
    """Create a model and load a file; ``options`` are those of ``load_weights``."""
    import logging

    import mindcv

    from mindcv_ghost.storage.checkpoint import load_weights

    plain, features = dict(arguments), {}
    for key in ("features_only", "out_indices"):
        if key in plain:
            features[key] = plain.pop(key)
    network = mindcv.create_model(name, **plain)
    report = load_weights(network, path, model=name, **options)
    level = logging.WARNING if report.prefixes or report.reset else logging.INFO
    logging.getLogger(__name__).log(level, "%s: %s", path, report)
    if not features.get("features_only"):
        return network
    expected = mindcv.create_model(name, **plain, **features)
    return _feature_extractor(network, expected, features.get("out_indices"))


def _similar_names(network: nn.Cell, names: Sequence[str]) -> dict[str, str]:
    """Return new name -> name in the file, as MindCV's ``auto_mapping`` guesses them."""
    from mindcv.models.helpers import auto_map

    try:
        return auto_map(network, {name: name for name in names})
    except (ValueError, KeyError):  # KeyError: it would take one array for two weights
        raise CheckpointError(
            "auto_mapping finds no names for some weights. Leave it out to see which differ."
        ) from None


def _feature_extractor(
    network: nn.Cell, expected: nn.Cell, out_indices: Sequence[int] | None
) -> nn.Cell:
    """Wrap a network as MindCV does for ``features_only``, which renames and drops parameters."""
    from mindcv.models.features import FeatureExtractWrapper

    indices = {} if out_indices is None else {"out_indices": out_indices}
    wrapped = None
    with contextlib.suppress(AttributeError):  # no feature_info
        wrapped = FeatureExtractWrapper(network, **indices)
    if wrapped is None or _shapes(wrapped) != _shapes(expected):
        raise RuntimeError(
            f"{type(network).__name__} is another network with features_only, so that weights of "
            "the whole network can't be loaded into it"
        )
    return wrapped


def _shapes(network: nn.Cell) -> list[tuple[str, tuple[int, ...]]]:
    return [(p.name, tuple(p.shape)) for p in network.get_parameters()]


def create_model_by_name(
    name: str, model_args: Mapping[str, Any] | None = None, **arguments: Any
) -> nn.Cell:
    """Create a model of MindCV's registry, in which this package's models are, too.

    Args:
        name: as in ``mindcv.list_models()``.
        model_args: arguments that the user gave, for example ``{"ratio": 4}``.
        arguments: further arguments of ``mindcv.create_model``, such as ``num_classes``.

    Raises:
        ConfigError: if there is no such model, or it can't be built with these arguments, or the
            device can't compute it.
    """
    import mindcv
    import mindspore

    from mindcv_ghost import compat

    check_model_exists(name)
    model_args = model_args or {}
    try:
        network = mindcv.create_model(name, **arguments, **model_args)
    except (TypeError, ValueError) as error:
        # What a model raises for an argument that it doesn't have, or a value that it doesn't take.
        given = ", ".join(f"{key}={value!r}" for key, value in {**arguments, **model_args}.items())
        raise ConfigError(f"model {name} can't be built with {given}: {error}") from error
    except RuntimeError as error:
        # MindCV 0.3's rexnet_* reshape weights that MindSpore 2.8 hasn't initialised yet.
        raise ConfigError(
            f"{name} can't be built under MindSpore {mindspore.__version__} and MindCV "
            f"{mindcv.__version__}: {first_line(error)}"
        ) from error
    made_of_mint = compat.mint_convolutions(network)
    if made_of_mint and mindspore.get_context("device_target") == "CPU":
        raise ConfigError(
            f"MindCV {mindcv.__version__} builds {name} of mindspore.mint layers "
            f"({made_of_mint[0]}), which MindSpore can't compute on the CPU. Run it on an Ascend, "
            "or: pip install mindcv==0.3.0"
        )
    return network


def create_model_by_options(
    name: str, options: argparse.Namespace, num_classes: int | None = None
) -> nn.Cell:
    """Create the model that a command line with :func:`add_model_arguments` asks for.

    Args:
        name: as in ``mindcv.list_models()``.
        options: the parsed command line.
        num_classes: instead of ``--num_classes``.

    Raises:
        ConfigError: as :func:`create_model_by_name` and :func:`parse_model_args` raise it.
    """
    return create_model_by_name(
        name,
        parse_model_args(options.model_args),
        num_classes=options.num_classes if num_classes is None else num_classes,
        in_channels=options.in_channels,
    )
