"""Feature maps as linear images of others: depthwise kernels fitted by least squares.

What Han et al. (arXiv 1911.11907, section 3.1 and figure 1) observe, that maps of a trained network
are alike in pairs, is asked here of all pairs: how well does one map, filtered by the best d x d
kernel, give another? Plain arithmetic on arrays.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "Positions",
    "fit_kernels",
    "map_values",
    "neighbourhoods",
    "pair_residuals",
    "sample_positions",
]

# Of the mean of a Gram matrix's diagonal: too little to show in a residual, enough to solve for a
# map that is constant or a mirror image of itself.
_RIDGE = 1e-7
# Numbers of the largest array that the fitting of all pairs makes at a time.
_CHUNK = 2**24

Positions = tuple[np.ndarray, np.ndarray, np.ndarray]


def sample_positions(
    images: int, height: int, width: int, most: int, rng: np.random.Generator
) -> Positions:
    """Draw positions of a batch of maps without repetition, all of them where there are few.

    Args:
        images: maps of one channel in the batch.
        height: of a map, in pixels.
        width: of a map, in pixels.
        most: how many positions.
        rng: draws them.

    Returns:
        Three arrays of at most ``most`` numbers, ascending: image, row and column.
    """
    count = images * height * width
    chosen = np.sort(rng.choice(count, min(most, count), replace=False))
    return np.unravel_index(chosen, (images, height, width))


def map_values(maps: np.ndarray, positions: Positions) -> np.ndarray:
    """Pick values of maps (N, C, H, W) at P positions; return (C, P)."""
    image, row, column = positions
    return np.ascontiguousarray(maps[image, :, row, column].T)


def neighbourhoods(maps: np.ndarray, positions: Positions, size: int) -> np.ndarray:
    """Cut the patches that a depthwise convolution sees, with zeros around the maps.

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
    """Measure how badly each source map, filtered by its best kernel, gives each target map.

    Args:
        sources: maps of shape (N, C, H, W).
        targets: values of the maps to be given at the positions, of shape (T, P).
        positions: P of them.
        size: side of the kernels, odd.
        intercept: whether a constant may be added.

    Returns:
        The mean squared residuals, of shape (C, T).
    """
    channels, count = sources.shape[1], targets.shape[1]
    wanted = targets.astype(np.float32)
    if intercept:
        wanted = wanted - wanted.mean(axis=1, keepdims=True)
    power = np.einsum("tp,tp->t", wanted, wanted, dtype=np.float64)
    residuals = np.empty((channels, len(targets)))
    step = max(1, _CHUNK // (size * size * max(count, len(targets))))
    for start in range(0, channels, step):
        patches = neighbourhoods(sources[:, start : start + step], positions, size)
        if intercept:
            patches -= patches.mean(axis=1, keepdims=True)
        across = patches.transpose(0, 2, 1)
        gram = (across @ patches).astype(np.float64)
        moment = (across.reshape(-1, count) @ wanted.T).reshape(*gram.shape[:2], -1)
        kernels = np.linalg.solve(_with_ridge(gram), moment.astype(np.float64))
        residuals[start : start + step] = power - (kernels * moment).sum(axis=1)
    return np.maximum(residuals, 0.0) / count


def fit_kernels(
    sources: np.ndarray, targets: np.ndarray, positions: Positions, size: int, intercept: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a kernel, and a constant, from each source map to one target map.

    Args:
        sources: maps of shape (N, C, H, W).
        targets: values at the positions, of shape (C, P): number c is fitted from source number c.
        positions: P of them.
        size: side of the kernels, odd.
        intercept: whether a constant is added.

    Returns:
        Kernels of shape (C, size, size), constants of shape (C,) (zeros without ``intercept``) and
        mean squared residuals of shape (C,), all in float64.
    """
    channels = sources.shape[1]
    kernels, constants = np.zeros((channels, size * size)), np.zeros(channels)
    residuals = np.zeros(channels)
    step = max(1, _CHUNK // (size * size * targets.shape[1]))
    for start in range(0, channels, step):
        some = slice(start, start + step)
        patches = neighbourhoods(sources[:, some], positions, size).astype(np.float64)
        wanted = targets[some].astype(np.float64)
        middle, level = np.zeros(patches.shape[::2]), np.zeros(len(patches))
        if intercept:
            middle, level = patches.mean(axis=1), wanted.mean(axis=1)
            patches -= middle[:, None]
            wanted -= level[:, None]
        across = patches.transpose(0, 2, 1)
        moment = across @ wanted[..., None]
        solved = np.linalg.solve(_with_ridge(across @ patches), moment)
        residuals[some] = ((wanted - (patches @ solved)[..., 0]) ** 2).mean(axis=1)
        kernels[some] = solved[..., 0]
        constants[some] = level - (middle * kernels[some]).sum(axis=1)
    return kernels.reshape(channels, size, size), constants, residuals


def _with_ridge(gram: np.ndarray) -> np.ndarray:
    size = gram.shape[-1]
    diagonal = _RIDGE * np.trace(gram, axis1=1, axis2=2) / size
    # A dead map's Gram matrix is nought: with anything on the diagonal its kernel is nought, too.
    diagonal = np.where(diagonal > 0, diagonal, 1.0)
    return gram + diagonal[:, None, None] * np.eye(size)
