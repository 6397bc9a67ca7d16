"""A finished run."""

from __future__ import annotations

import pytest

from tests.helpers.finished_run import write_finished_run


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    write_finished_run(folder)
    return folder
