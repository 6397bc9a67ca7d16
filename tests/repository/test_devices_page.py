"""What docs/devices.md says of MindSpore's sources, held against the installed package."""

from __future__ import annotations

import re
from pathlib import Path

import mindspore
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
QUOTATIONS = re.findall(r"`([\w/]+\.py):(\d+)` `([^`]+)`", PAGE)


@pytest.mark.skipif(mindspore.__version__ != "2.8.0", reason="lines of MindSpore 2.8.0 are cited")
@pytest.mark.parametrize(("file", "line", "words"), QUOTATIONS)
def test_a_quotation_stands_where_the_page_says(file, line, words):
    lines = (Path(mindspore.__file__).parent / file).read_text(encoding="utf-8").splitlines()
    assert words in lines[int(line) - 1]


def test_every_line_that_is_cited_is_quoted():
    assert len(QUOTATIONS) == len(re.findall(r"`[\w/]+\.py:\d+`", PAGE)) >= 15


def test_links_to_files_of_this_project_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+\.md)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    for path in re.findall(r"`((?:mindcv_ghost|tests)/[\w/.]*)`", PAGE):
        assert (ROOT / path).exists(), path
