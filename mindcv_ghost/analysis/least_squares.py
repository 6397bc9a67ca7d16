"""Predict one feature map from another: depthwise kernels fitted by least squares.

Han et al. (arXiv 1911.11907, section 3.1 and figure 1) observe that maps of a trained network are
similar in pairs. The functions here test all pairs: how well does one map, filtered by the best
d x d kernel, predict another? They work on NumPy arrays.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "Positions",
    "all_positions",
    "extract_patches",
    "fit_kernels",
    "pair_residuals",
    "sample_positions",
    "values_at",
]

# Added to a Gram matrix's diagonal, as a share of the diagonal's mean: too small to show in a
# residual, large enough to solve for maps whose patches are linearly dependent (constant or
# symmetric maps).
_RIDGE = 1e-7
# Largest number of elements in a temporary array while all pairs are fitted.
_CHUNK = 2**24

# Image, row and column of each of P positions: three arrays of shape (P,).
Positions = tuple[np.ndarray, np.ndarray, np.ndarray]


def sample_positions(
    images: int, height: int, width: int, most: int, rng: np.random.Generator
) -> Positions:
    """Draw positions in a batch of maps without replacement, or take all if there are few.

    Args:
        images: number of images in the batch.
        height: of a map, in pixels.
        width: of a map, in pixels.
        most: how many positions to draw at most.
        rng: source of the random numbers.

    Returns:
        Image, row and column of each position, in ascending order.
    """
    count = images * height * width
    chosen = np.sort(rng.choice(count, min(most, count), replace=False))
    image, row, column = np.unravel_index(chosen, (images, height, width))
    return image, row, column


def all_positions(images: int, height: int, width: int) -> Positions:
    """Return all positions of a batch of maps, in ascending order."""
    image, row, column = np.indices((images, height, width)).reshape(3, -1)
    return image, row, column


def values_at(maps: np.ndarray, positions: Positions) -> np.ndarray:
    """Take the values of maps (N, C, H, W) at P positions; return an array of shape (C, P)."""
    image, row, column = positions
    return np.ascontiguousarray(maps[image, :, row, column].T)


def extract_patches(maps: np.ndarray, positions: Positions, size: int) -> np.ndarray:
    """Extract the patches that a depthwise convolution with zero padding reads.

    Args:
        maps: of shape (N, C, H, W).
        positions: P of them.
        size: side of the patches, odd.

    Returns:
        An array of shape (C, P, size * size).
    """
    margin = size // 2
    padded = np.pad(maps, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    image, row, column = positions
    shifted = [padded[image, :, row + u, column + v] for u in range(size) for v in range(size)]
    return np.ascontiguousarray(np.stack(shifted, axis=-1).transpose(1, 0, 2))


def pair_residuals(
    sources: np.ndarray, targets: np.ndarray, positions: Positions, size: int, intercept: bool
) -> np.ndarray:
    """Compute the error of predicting each target map from each source map.

    Args:
        sources: maps of shape (N, C, H, W).
        targets: values of the T target maps at the positions, of shape (T, P).
        positions: P of them.
        size: side of the kernels, odd.
        intercept: whether the prediction includes a constant.

    Returns:
        The mean squared residuals of the best kernels, of shape (C, T).
    """
    channels, count = sources.shape[1], targets.shape[1]
    wanted = targets.astype(np.float32)
    if intercept:
        wanted = wanted - wanted.mean(axis=1, keepdims=True)
    power = np.einsum("tp,tp->t", wanted, wanted, dtype=np.float64)
    residuals = np.empty((channels, len(targets)))
    step = max(1, _CHUNK // (size * size * max(count, len(targets))))
    for start in range(0, channels, step):
        patches = extract_patches(sources[:, start : start + step], positions, size)
        if intercept:
            patches -= patches.mean(axis=1, keepdims=True)
        transposed = patches.transpose(0, 2, 1)
        gram = (transposed @ patches).astype(np.float64)
        moment = (transposed.reshape(-1, count) @ wanted.T).reshape(*gram.shape[:2], -1)
        kernels = np.linalg.solve(_add_ridge(gram), moment.astype(np.float64))
        residuals[start : start + step] = power - (kernels * moment).sum(axis=1)
    return np.maximum(residuals, 0.0) / count


def fit_kernels(
    sources: np.ndarray, targets: np.ndarray, positions: Positions, size: int, intercept: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit the kernels that predict each target map from the source map of the same number.

    Args:
        sources: maps of shape (N, C, H, W).
        targets: values of the target maps at the positions, of shape (C, P).
        positions: P of them.
        size: side of the kernels, odd.
        intercept: whether the predictions include a constant.

    Returns:
        Kernels of shape (C, size, size), constants of shape (C,) (zeros without ``intercept``) and
        mean squared residuals of shape (C,), all in float64.
    """
    channels = sources.shape[1]
    kernels, constants = np.zeros((channels, size * size)), np.zeros(channels)
    residuals = np.zeros(channels)
    step = max(1, _CHUNK // (size * size * targets.shape[1]))
    for start in range(0, channels, step):
        chunk = slice(start, start + step)
        patches = extract_patches(sources[:, chunk], positions, size).astype(np.float64)
        wanted = targets[chunk].astype(np.float64)
        patch_means, target_means = np.zeros(patches.shape[::2]), np.zeros(len(patches))
        if intercept:
            patch_means, target_means = patches.mean(axis=1), wanted.mean(axis=1)
            patches -= patch_means[:, None]
            wanted -= target_means[:, None]
        transposed = patches.transpose(0, 2, 1)
        moment = transposed @ wanted[..., None]
        solved = np.linalg.solve(_add_ridge(transposed @ patches), moment)
        residuals[chunk] = ((wanted - (patches @ solved)[..., 0]) ** 2).mean(axis=1)
        kernels[chunk] = solved[..., 0]
        constants[chunk] = target_means - (patch_means * kernels[chunk]).sum(axis=1)
    return kernels.reshape(channels, size, size), constants, residuals


def _add_ridge(gram: np.ndarray) -> np.ndarray:
    size = gram.shape[-1]
    diagonal = _RIDGE * np.trace(gram, axis1=1, axis2=2) / size
    # The Gram matrix of a dead map is zero. Any positive diagonal makes its kernel zero, too.
    diagonal = np.where(diagonal > 0, diagonal, 1.0)
    return gram + diagonal[:, None, None] * np.eye(size)
