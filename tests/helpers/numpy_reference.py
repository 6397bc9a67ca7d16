"""A reference implementation of the layers in NumPy and float64."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
EPSILON = 1e-5


def _windows(x: np.ndarray, side: int, stride: int) -> np.ndarray:
    """Every (side x side) window of (N, C, H, W): (N, C, rows, columns, side, side)."""
    views = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(2, 3))
    return views[:, :, ::stride, ::stride]


def pad(x: np.ndarray, width: int, value: float = 0.0) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (width, width), (width, width)), constant_values=value)


def conv2d(x: np.ndarray, weight: np.ndarray, stride: int = 1, groups: int = 1) -> np.ndarray:
    """Convolution with ``side // 2`` zeros on all sides, without bias."""
    side = weight.shape[-1]
    windows = _windows(pad(x, side // 2), side, stride)
    taken, made = weight.shape[1], weight.shape[0] // groups
    maps = [
        np.einsum(
            "ncyxij,ocij->noyx",
            windows[:, group * taken : (group + 1) * taken],
            weight[group * made : (group + 1) * made],
            optimize=True,
        )
        for group in range(groups)
    ]
    return np.concatenate(maps, axis=1)


def batch_norm(x: np.ndarray, parameters: Arrays, prefix: str, training: bool) -> np.ndarray:
    mean, variance = (parameters[f"{prefix}.moving_{name}"] for name in ("mean", "variance"))
    if training:
        mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    scale = parameters[f"{prefix}.gamma"] / np.sqrt(variance + EPSILON)
    offset = parameters[f"{prefix}.beta"] - mean * scale
    return x * scale[:, None, None] + offset[:, None, None]


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


def max_pool(x: np.ndarray) -> np.ndarray:
    """3x3, stride 2, padded by one -inf on all sides."""
    return _windows(pad(x, 1, -np.inf), 3, 2).max(axis=(4, 5))


def ghost_module(
    x: np.ndarray,
    parameters: Arrays,
    prefix: str,
    out_channels: int,
    stride: int = 1,
    act: bool = True,
    training: bool = False,
) -> np.ndarray:
    """Equation 3 of the paper; ``prefix`` is "" or ends in a dot."""
    primary = parameters[f"{prefix}primary.conv.weight"]
    maps = conv2d(x, primary, stride)
    maps = batch_norm(maps, parameters, f"{prefix}primary.bn", training)
    maps = relu(maps) if act else maps
    if f"{prefix}cheap.conv.weight" in parameters:
        cheap = parameters[f"{prefix}cheap.conv.weight"]
        ghosts = conv2d(maps, cheap, groups=len(primary))
        ghosts = batch_norm(ghosts, parameters, f"{prefix}cheap.bn", training)
        maps = np.concatenate((maps, relu(ghosts) if act else ghosts), axis=1)
    return maps[:, :out_channels]


def ghost_resnet(
    images: np.ndarray, parameters: Arrays, depths: tuple[int, ...], bottleneck: bool
) -> np.ndarray:
    """Return the logits of a Ghost-ResNet in evaluation mode; parameters are found by name."""
    x = conv2d(images, parameters["conv1.weight"], stride=2)
    x = max_pool(relu(batch_norm(x, parameters, "bn1", training=False)))
    for stage, depth in enumerate(depths):
        channels, out = 64 * 2**stage, 64 * 2**stage * (4 if bottleneck else 1)
        for index in range(depth):
            stride = 2 if index == 0 and stage > 0 else 1
            at = f"layer{stage + 1}.{index}."
            if bottleneck:
                y = ghost_module(x, parameters, at + "conv1.", channels)
                y = ghost_module(y, parameters, at + "conv2.", channels, stride)
                y = ghost_module(y, parameters, at + "conv3.", out, act=False)
            else:
                y = ghost_module(x, parameters, at + "conv1.", channels, stride)
                y = ghost_module(y, parameters, at + "conv2.", out, act=False)
            if x.shape[1] != out or stride != 1:
                x = ghost_module(x, parameters, at + "downsample.", out, stride, act=False)
            x = relu(x + y)
    features = x.mean(axis=(2, 3))
    return features @ parameters["classifier.weight"].T + parameters["classifier.bias"]
