"""Weight initialisation that MindSpore doesn't offer."""

from __future__ import annotations

import math

from mindspore.common.initializer import Normal

__all__ = ["kaiming_normal_fan_out"]


def kaiming_normal_fan_out(
    out_channels: int, kernel_size: int | tuple[int, int], groups: int = 1
) -> Normal:
    """Normal weights that preserve the scale of gradients through a ReLU, also with groups.

    MindSpore's ``HeNormal(mode="fan_out")`` computes the fan from the weight's shape and so counts
    the outputs of all groups, though an input channel only reaches those of its own group: a
    depthwise 3x3 convolution of 64 channels would start with a standard deviation of 0.06 instead
    of 0.47.

    Args:
        out_channels: number of output channels, over all groups.
        kernel_size: of the convolution; one number, or height and width.
        groups: groups of the convolution; ``out_channels`` is a multiple of it.

    Source: He et al., "Delving Deep into Rectifiers", equation 14.
    """
    height, width = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    fan_out = out_channels // groups * height * width
    return Normal(sigma=math.sqrt(2.0 / fan_out))
