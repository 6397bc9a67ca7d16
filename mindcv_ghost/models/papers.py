"""The papers that the zoo's families come from."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PAPERS", "Paper", "paper_of"]


class Paper(NamedTuple):
    """A family's name, and its paper's authors, year and arXiv number."""

    family: str
    authors: str
    arxiv: str


PAPERS = {
    # keys: prefixes of model names
    "ghost_resnet": Paper("Ghost-ResNet", "Han et al., 2020", "1911.11907"),
    "ghost_vgg": Paper("Ghost-VGG", "Han et al., 2020", "1911.11907"),
    "ghostnet_": Paper("GhostNet (MindCV's)", "Han et al., 2020", "1911.11907"),
    "ghostnetv2_": Paper("GhostNetV2", "Tang et al., 2022", "2211.12905"),
    "ghostnetv3_": Paper("GhostNetV3", "Liu et al., 2024", "2404.11202"),
    "repghostnet_": Paper("RepGhostNet", "Chen et al., 2022", "2211.06088"),
    "g_ghost_regnetx_": Paper("G-Ghost-RegNetX", "Han et al., 2022", "2201.03297"),
}


def paper_of(model: str) -> Paper:
    """Find a model's paper by the prefix of its name.

    Raises:
        KeyError: if no family has this prefix.

    >>> paper_of("ghostnetv2_100").arxiv
    '2211.12905'
    """
    for prefix, paper in PAPERS.items():
        if model.startswith(prefix):
            return paper
    raise KeyError(f"{model} belongs to no family in mindcv_ghost/models/papers.py")
