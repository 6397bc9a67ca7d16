"""What PyTorch calls the parameters of the Ghost networks.

Names are derived from MindSpore's: a table of rules a family, each applied to the whole name in the
order given, and MindSpore's four words for BN's arrays. The other direction looks names up in what
this one gives, so that both can't differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mindcv_ghost.errors import ConfigError

__all__ = ["DIALECTS", "dialects_of", "torch_names"]

# timm: its networks of the same name, and PyTorch networks written as timm writes them.
# authors: the file that the paper's authors published, where its names differ.
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
    # In deploy form there is one convolution in the branches' place.
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
    # family (beginning of the model's name), dialect, rules
    # torchvision's names of ResNet, with timm's of a Ghost module below.
    ("ghost_resnet", "timm", (*_GHOST_MODULE, (r"^classifier\.", "fc."))),
    ("ghost_vgg", "timm", _GHOST_MODULE),
    # MindCV's network has timm's names but for its last convolution; so have the authors.
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
    # The authors' names are this package's; timm doesn't have the family.
    ("g_ghost_regnetx_", "timm", ()),
)


def dialects_of(model: str) -> tuple[str, ...]:
    """Which dialects a model's family has names in; "timm" stands first.

    Raises:
        ConfigError: if the model isn't a Ghost network.
    """
    found = tuple(dialect for family, dialect, _ in _RULES if model.startswith(family))
    if not found:
        families = sorted({f"{family}*" for family, _, _ in _RULES})
        raise ConfigError(
            f"--model {model}: names are known for {', '.join(families)}; for other models MindCV "
            f"has its own conversion scripts"
        )
    return found


def torch_names(model: str, names: Iterable[str], dialect: str = "timm") -> dict[str, str]:
    """Name in PyTorch what MindSpore names.

    Args:
        model: name of the registered model.
        names: its parameters' names, ``layer1.0.conv1.primary.bn.gamma``.
        dialect: one of :func:`dialects_of` the model.

    Returns:
        MindSpore's name -> PyTorch's, ``layer1.0.conv1.primary_conv.1.weight``.

    Raises:
        ConfigError: if the model isn't a Ghost network or has no names in this dialect.
    """
    if dialect not in dialects_of(model):
        raise ConfigError(
            f"{model} has names in {' and '.join(dialects_of(model))}, not in {dialect!r}"
        )
    rules = next(
        rules for family, spoken, rules in _RULES if model.startswith(family) and spoken == dialect
    )
    return {name: _torch_name(name, rules) for name in names}


def _torch_name(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    path, _, array = name.rpartition(".")
    return f"{path}.{_BN_ARRAYS.get(array, array)}"
