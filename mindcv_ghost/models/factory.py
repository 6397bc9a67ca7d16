"""Create a registered model from its row in a family's table, as MindCV's entry points do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mindcv.models.helpers import build_model_with_cfg
from mindspore import nn

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.program import program
from mindcv_ghost.registry import create_model
from mindcv_ghost.weights import list_shipped

__all__ = ["create_variant", "default_cfg"]


def default_cfg(
    first_conv: str, classifier: str = "classifier", num_classes: int = 1000, **fields: Any
) -> dict[str, Any]:
    """Make a model's entry in ``default_cfgs``, the dictionary that MindCV reads.

    Args:
        first_conv: path of the first convolution.
        classifier: path of the last linear layer.
        num_classes: classes that the published weights would have.
        fields: further entries, such as ``input_size=(3, 32, 32)``; ``url`` once weights are
            published.
    """
    return {
        "url": "",
        "num_classes": num_classes,
        "first_conv": first_conv,
        "classifier": classifier,
        **fields,
    }


def create_variant(
    network: type[nn.Cell],
    variants: Mapping[str, Mapping[str, Any]],
    default_cfgs: Mapping[str, Mapping[str, Any]],
    name: str,
    pretrained: bool | str | os.PathLike,
    num_classes: int,
    in_channels: int,
    **options: Any,
) -> nn.Cell:
    """Create one model of a family.

    A family's file binds the first three arguments with ``functools.partial``.

    Args:
        network: the family's class.
        variants: model name -> the class's arguments that make this model.
        default_cfgs: model name -> its entry of :func:`default_cfg`.
        name: the model.
        pretrained: load published weights: a text as :func:`mindcv_ghost.create_model` takes it, or
            True for those that ``url`` has.
        num_classes: outputs of the classifier.
        in_channels: channels of the images.
        options: further arguments of the class, and ``features_only`` and ``out_indices``, which
            MindCV adds.

    Returns:
        The network; with ``features_only`` MindCV's ``FeatureExtractWrapper`` around it.

    Raises:
        CheckpointError: if ``pretrained`` is set and there are no published weights. MindCV itself
            logs a warning and goes on with random weights.
        ValueError: if an option contradicts the model's row in ``variants``.
    """
    if isinstance(pretrained, (str, os.PathLike)):
        return create_model(name, num_classes, pretrained, in_channels, **options)
    if pretrained and not default_cfgs[name]["url"]:
        shipped = [repr(p.card.name) for p in list_shipped() if p.card.model == name]
        if shipped:
            raise CheckpointError(
                f"pretrained=True doesn't say which weights of {name}: there are "
                f"{' and '.join(shipped)}, as pretrained={shipped[0]}"
            )
        raise CheckpointError(
            f"{name} has no published weights, so pretrained=True can't be used. Leave it out to "
            f"start from random weights; train your own with `{program('train')} "
            f"--config RECIPE`; or convert a checkpoint you have to this model's "
            f'parameter names and load it with create_model("{name}", checkpoint_path=...) or '
            f"`--ckpt_path ...`."
        )
    variant = variants[name]
    for option in options.keys() & variant.keys():
        if options[option] != variant[option]:
            raise ValueError(
                f"{name} has {option} {variant[option]}, not {options[option]}; choose another "
                f"model of the family"
            )
    return build_model_with_cfg(
        network,
        pretrained,
        default_cfgs[name],
        num_classes=num_classes,
        in_channels=in_channels,
        **{**variant, **options},
    )
