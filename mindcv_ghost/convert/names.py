"""PyTorch's names for the parameters of the Ghost networks.

They are derived from MindSpore's names. Each family has a list of rules, applied to the whole name
in the given order; then BN's four arrays are renamed. The opposite direction looks names up in the
result of this one, so the two directions can't disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mindcv_ghost.errors import ConfigError

__all__ = ["DIALECTS", "dialects_of", "torch_names"]

# timm: the names of timm's network, or, for families that timm doesn't have, names in timm's style.
# authors: the names in the file that the paper's authors published, if they differ.
DIALECTS = ("timm", "authors")

_BN_ARRAYS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

_GHOST_MODULE = (
    (r"\.primary\.conv\.", ".primary_conv.0."),
    (r"\.primary\.bn\.", ".primary_conv.1."),
    (r"\.cheap\.conv\.", ".cheap_operation.0."),
    (r"\.cheap\.bn\.", ".cheap_operation.1."),
)
_LAST_CONVOLUTION = ((r"^blocks\.9\.0\.bn\.", "blocks.9.0.bn1."),)
_ATTENTION = ((r"\.attention\.fc\.", ".short_conv."),)
_BRANCHES = (
    # The deploy form has one convolution in place of the branches.
    (r"\.primary\.conv\.", ".primary_conv.0."),
    (r"\.cheap\.conv\.", ".cheap_operation.0."),
    (r"\.conv_dw\.conv\.", ".conv_dw."),
    (r"\.(primary|cheap)\.branches\.", r".\1_rpr_conv."),
    (r"\.cheap\.(scale|skip)\.", r".cheap_rpr_\1."),
    (r"\.conv_dw\.branches\.", ".dw_rpr_conv."),
    (r"\.conv_dw\.scale\.", ".dw_rpr_scale."),
)
_BRANCH_BN = ((r"(rpr_conv\.\d+|rpr_scale)\.bn\.", r"\1.bn1."),)
_REP_GHOST = (
    (r"\.primary\.conv\.", ".primary_conv.0."),
    (r"\.primary\.bn\.", ".primary_conv.1."),
    (r"\.cheap\.branches\.0\.conv\.", ".cheap_operation.0."),
    (r"\.cheap\.branches\.0\.bn\.", ".cheap_operation.1."),
    (r"\.cheap\.skip\.", ".fusion_bn.0."),
    (r"\.cheap\.conv\.", ".cheap_operation."),
)

_RULES = (
    # family (prefix of the model's name), dialect, rules
    # torchvision's names for ResNet, with timm's names for the Ghost modules inside.
    ("ghost_resnet", "timm", (*_GHOST_MODULE, (r"^classifier\.", "fc."))),
    ("ghost_vgg", "timm", _GHOST_MODULE),
    # MindCV's network, like the authors', has timm's names except for the last convolution.
    (
        "ghostnet_",
        "timm",
        (
            (r"^blocks\.9\.features\.0\.", "blocks.9.0.conv."),
            (r"^blocks\.9\.features\.1\.", "blocks.9.0.bn1."),
        ),
    ),
    (
        "ghostnetv2_",
        "timm",
        ((r"\.ghost1\.ghost\.", ".ghost1."), *_GHOST_MODULE, *_ATTENTION, *_LAST_CONVOLUTION),
    ),
    ("ghostnetv3_", "timm", (*_BRANCHES, *_BRANCH_BN, *_ATTENTION, *_LAST_CONVOLUTION)),
    ("ghostnetv3_", "authors", (*_BRANCHES, *_ATTENTION, *_LAST_CONVOLUTION)),
    ("repghostnet_", "timm", (*_REP_GHOST, *_LAST_CONVOLUTION)),
    # This package uses the authors' names; timm doesn't have the family.
    ("g_ghost_regnetx_", "timm", ()),
)


def dialects_of(model: str) -> tuple[str, ...]:
    """List the dialects that have names for a model's family; "timm" comes first.

    Raises:
        ConfigError: if the model isn't a Ghost network.
    """
    found = tuple(dialect for family, dialect, _ in _RULES if model.startswith(family))
    if not found:
        families = sorted({f"{family}*" for family, _, _ in _RULES})
        raise ConfigError(
            f"--model {model} isn't a Ghost network; names are known for {', '.join(families)}. "
            f"For other models use MindCV's own conversion scripts."
        )
    return found


def torch_names(model: str, names: Iterable[str], dialect: str = "timm") -> dict[str, str]:
    """Translate MindSpore's parameter names to PyTorch's.

    Args:
        model: name of the registered model.
        names: MindSpore's names, such as ``layer1.0.conv1.primary.bn.gamma``.
        dialect: one of the model's dialects (:func:`dialects_of`).

    Returns:
        MindSpore's name -> PyTorch's, such as ``layer1.0.conv1.primary_conv.1.weight``.

    Raises:
        ConfigError: if the model isn't a Ghost network or has no names in this dialect.
    """
    if dialect not in dialects_of(model):
        raise ConfigError(
            f"{model} has names in {' and '.join(dialects_of(model))}, not in {dialect!r}"
        )
    rules = next(
        rules for family, known, rules in _RULES if model.startswith(family) and known == dialect
    )
    return {name: _torch_name(name, rules) for name in names}


def _torch_name(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    path, _, array = name.rpartition(".")
    return f"{path}.{_BN_ARRAYS.get(array, array)}"
