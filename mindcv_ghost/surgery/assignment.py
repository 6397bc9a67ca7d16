"""Choose which maps a Ghost module computes, and from which of these it derives each other map.

The maps are divided into clusters of ``ratio`` maps. In each cluster one map, the centre, is
computed and the others are derived from it. Finding the cheapest clusters is a capacitated p-median
problem (matching, for a ratio of 2). It is solved approximately: first greedily, then by exchanging
maps between clusters while this lowers the cost, then by the optimal assignment of maps to centres.
"""

from __future__ import annotations

import numpy as np

from mindcv_ghost.layers import split_channels

__all__ = ["choose_sources"]

_LEAST_GAIN = 1e-4  # share of the cost that a round must save to be followed by another
_EDGES = 2**16  # pairs to process before those whose target has been taken are filtered out


def choose_sources(cost: np.ndarray, ratio: int) -> np.ndarray:
    """Choose the maps to compute and the source of every other map.

    Args:
        cost: of shape (n, n), not negative. ``cost[i, j]`` is the cost of deriving map j from map
            i; ``cost[i, i]`` is the cost of computing map i.
        ratio: s in the paper; at most ``ratio - 1`` maps are derived from a computed map.

    Returns:
        The source of each map, of shape (n,). The ``ceil(n / ratio)`` maps to compute are their own
        sources.
    """
    count = len(cost)
    intrinsic, _ = split_channels(count, ratio)
    # Fill up with maps that cost nothing and are too dear as sources; they stand for empty places.
    padded = np.zeros((intrinsic * ratio,) * 2)
    padded[:count, :count] = cost
    padded[count:] = (1.0 + cost.max()) * count
    clusters = _greedy_clusters(padded, intrinsic, ratio)
    best = np.inf
    while True:
        clusters = _exchange_members(padded, clusters)
        clusters = _reassign_members(padded, clusters)
        total = _centre_costs(padded, clusters).min(axis=1).sum()
        if total < best:
            kept = clusters
        if total >= best * (1 - _LEAST_GAIN):
            break
        best = total
    source = np.empty(len(padded), int)
    source[kept] = _with_centres_first(padded, kept)[:, :1]
    return source[:count]


def _greedy_clusters(cost: np.ndarray, clusters: int, size: int) -> np.ndarray:
    """Take the cheapest pairs that are still possible; return members, (clusters, size)."""
    count = len(cost)
    free = np.ones(count, bool)
    members: dict[int, list[int]] = {}
    order = np.argsort(cost + np.diag(np.full(count, np.inf)), axis=None, kind="stable")
    for start in range(0, count * count, _EDGES):
        sources, targets = np.divmod(order[start : start + _EDGES], count)
        for i, j in zip(sources[free[targets]].tolist(), targets[free[targets]].tolist()):
            if not free[j] or i == j:
                continue
            if free[i] and len(members) < clusters:
                members[i], free[i] = [i], False
            if i in members and len(members[i]) < size:
                members[i].append(j)
                free[j] = False
        if not free.any():
            break
    return np.array(list(members.values()))


def _centre_costs(cost: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Compute the cost of each cluster with each of its members as the centre, (clusters, size)."""
    return cost[clusters[:, :, None], clusters[:, None, :]].sum(axis=2)


def _with_centres_first(cost: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Move the best centre of every cluster to its first place."""
    best = _centre_costs(cost, clusters).argmin(axis=1)
    rows = np.arange(len(clusters))
    clusters = clusters.copy()
    clusters[rows, 0], clusters[rows, best] = clusters[rows, best], clusters[rows, 0]
    return clusters


def _exchange_members(cost: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Exchange members of two clusters, each with its best centre, while this lowers the cost."""
    count, size = len(cost), clusters.shape[1]
    clusters = clusters.copy()
    while True:
        cluster_of, place_of = np.empty(count, int), np.empty(count, int)
        cluster_of[clusters] = np.arange(len(clusters))[:, None]
        place_of[clusters] = np.arange(size)
        others = _others(clusters)[cluster_of, place_of]  # (count, size - 1)
        # after[p, q]: the cost of p's cluster if q takes p's place.
        after = cost[np.arange(count), np.arange(count)][None, :] + sum(
            cost[:, others[:, k]].T for k in range(size - 1)
        )
        for k in range(size - 1):
            centre = others[:, k]
            stay = cost[centre[:, None], others].sum(axis=1)
            np.minimum(after, cost[centre] + stay[:, None], out=after)
        now = _centre_costs(cost, clusters).min(axis=1)[cluster_of]
        gain = now[:, None] + now[None, :] - after - after.T
        gain[cluster_of[:, None] == cluster_of[None, :]] = 0.0
        partner = gain.argmax(axis=1)
        gain = gain[np.arange(count), partner]
        touched, gained = np.zeros(len(clusters), bool), 0.0
        for p in np.argsort(-gain, kind="stable"):
            q = partner[p]
            a, b = cluster_of[p], cluster_of[q]
            if gain[p] <= 1e-9 * (now[p] + now[q]):
                break
            if not touched[a] and not touched[b]:
                clusters[a, place_of[p]], clusters[b, place_of[q]] = q, p
                touched[[a, b]], gained = True, gained + gain[p]
        if gained <= _LEAST_GAIN * now[clusters[:, 0]].sum():
            return clusters


def _others(clusters: np.ndarray) -> np.ndarray:
    """List the other members for each member of each cluster, (clusters, size, size - 1)."""
    size = clusters.shape[1]
    rest = np.array([[k for k in range(size) if k != place] for place in range(size)], int)
    return clusters[:, rest.reshape(size, size - 1)]


def _reassign_members(cost: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Keep the centres and assign the other members to them at the lowest total cost."""
    from scipy.optimize import linear_sum_assignment  # takes 0.1 s to import, so only when needed

    clusters = _with_centres_first(cost, clusters)
    centres, size = clusters[:, 0], clusters.shape[1]
    if size == 1:
        return clusters
    members = clusters[:, 1:].ravel()
    seats = np.repeat(centres, size - 1)
    seat, member = linear_sum_assignment(cost[np.ix_(seats, members)])
    clusters[:, 1:] = members[member[np.argsort(seat)]].reshape(-1, size - 1)
    return clusters
