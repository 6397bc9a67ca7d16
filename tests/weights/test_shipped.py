"""What comes with this package: listed, verified, small."""

from __future__ import annotations

from pathlib import Path

import mindcv_ghost.weights
from mindcv_ghost.weights import list_shipped
from mindcv_ghost.weights.checksums import SUMS, read_sums

ROOT = Path(mindcv_ghost.weights.__file__).parent / "shipped"


def test_the_index_has_exactly_the_folders_that_are_there():
    folders = {str(path.relative_to(ROOT)) for path in ROOT.rglob(SUMS)} - {SUMS}
    assert set(read_sums(ROOT)) == folders
    stray = {path.parent for path in ROOT.rglob("*") if path.is_file()} - {ROOT}
    assert stray == {(ROOT / name).parent for name in folders}


def test_each_is_where_its_card_says_with_all_that_its_list_has():
    for published in list_shipped():
        card, folder = published.card, published.folder
        assert folder == ROOT / card.model / card.name
        names = {path.name for path in folder.iterdir()} - {SUMS}
        assert names == set(read_sums(folder))
        assert {"README.md", "card.json", "config.yaml", "metrics.csv", "run.json"} <= names
        assert card.training["commit"] and not card.training["commit"].endswith("-dirty")
        assert card.accuracy["unreadable"] == 0


def test_each_stays_below_two_megabytes():
    """Everybody who installs the package downloads them all; Ghost-ResNet-56 takes 1.8 MB."""
    for published in list_shipped():
        assert sum(path.stat().st_size for path in published.folder.iterdir()) < 2e6
