"""Which maps a Ghost module computes, and from which of them it derives each of the others.

Clusters of ``ratio`` maps: in each, one map is computed and the others are derived from it. Finding
the cheapest ones is a capacitated p-median problem (matching, for a ratio of 2); it is solved here
nearly: greedily, then by exchanging maps between clusters as long as that pays, then by the exact
assignment of maps to the ones computed.
"""

from __future__ import annotations

import numpy as np

from mindcv_ghost.layers import split_channels

__all__ = ["choose_sources"]

_WORTH_IT = 1e-4  # of the cost: what a round must bring for another to follow
_EDGES = 2**16  # looked at between two looks at what is still free


def choose_sources(cost: np.ndarray, ratio: int) -> np.ndarray:
    """Choose the maps to be computed and the source of every other map.

    Args:
        cost: ``cost[i, j]`` is that of deriving map j from map i, ``cost[i, i]`` that of computing
            it, none of them negative, of shape (n, n).
        ratio: the paper's s; a map that is computed serves at most ``ratio - 1`` others.

    Returns:
        The source of each map, of shape (n,); ``ceil(n / ratio)`` maps are their own: they are to
        be computed.
    """
    count = len(cost)
    intrinsic, _ = split_channels(count, ratio)
    # Places that stay empty are maps that cost nothing and that nothing can be derived from.
    padded = np.zeros((intrinsic * ratio,) * 2)
    padded[:count, :count] = cost
    padded[count:] = (1.0 + cost.max()) * count
    clusters = _greedy(padded, intrinsic, ratio)
    best = np.inf
    while True:
        clusters = _exchanged(padded, clusters)
        clusters = _assigned(padded, clusters)
        total = _centre_costs(padded, clusters).min(axis=1).sum()
        if total < best:
            kept = clusters
        if total >= best * (1 - _WORTH_IT):
            break
        best = total
    source = np.empty(len(padded), int)
    source[kept] = _centred(padded, kept)[:, :1]
    return source[:count]


def _greedy(cost: np.ndarray, clusters: int, size: int) -> np.ndarray:
    """Take the cheapest derivations that are still open; return members, (clusters, size)."""
    count = len(cost)
    free, members = np.ones(count, bool), {}
    for start in range(0, count * count, _EDGES):
        if start == 0:
            order = np.argsort(cost + np.diag(np.full(count, np.inf)), axis=None, kind="stable")
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
    """What a cluster costs with each of its members in the centre, (clusters, size)."""
    return cost[clusters[:, :, None], clusters[:, None, :]].sum(axis=2)


def _centred(cost: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Every cluster with its best centre in front."""
    best = _centre_costs(cost, clusters).argmin(axis=1)
    rows = np.arange(len(clusters))
    clusters = clusters.copy()
    clusters[rows, 0], clusters[rows, best] = clusters[rows, best], clusters[rows, 0]
    return clusters


def _exchanged(cost: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Exchange members of two clusters, each then with its best centre, as long as it pays."""
    count, size = len(cost), clusters.shape[1]
    clusters = clusters.copy()
    while True:
        cluster_of, place_of = np.empty(count, int), np.empty(count, int)
        cluster_of[clusters] = np.arange(len(clusters))[:, None]
        place_of[clusters] = np.arange(size)
        others = _others(clusters)[cluster_of, place_of]  # (count, size - 1)
        # after[p, q]: what p's cluster costs once q has taken p's place.
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
        if gained <= _WORTH_IT * now[clusters[:, 0]].sum():
            return clusters


def _others(clusters: np.ndarray) -> np.ndarray:
    """For each member of each cluster the others, (clusters, size, size - 1)."""
    size = clusters.shape[1]
    rest = np.array([[k for k in range(size) if k != place] for place in range(size)], int)
    return clusters[:, rest.reshape(size, size - 1)]


def _assigned(cost: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Keep the centres and give each of them the members that are cheapest for all together."""
    from scipy.optimize import linear_sum_assignment  # 0.1 s that no other start should pay

    clusters = _centred(cost, clusters)
    centres, size = clusters[:, 0], clusters.shape[1]
    if size == 1:
        return clusters
    members = clusters[:, 1:].ravel()
    seats = np.repeat(centres, size - 1)
    seat, member = linear_sum_assignment(cost[np.ix_(seats, members)])
    clusters[:, 1:] = members[member[np.argsort(seat)]].reshape(-1, size - 1)
    return clusters
