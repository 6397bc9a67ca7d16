"""What is measured is of a commit, and the record names it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from mindspore.common import initializer

from mindcv_ghost.errors import UserError
from tools.measure import count_models, digits_settings, export_families, ghostify_models

METRICS = "epoch,step,loss,lr,val_loss,top1,top5,images_per_second,epoch_seconds,compile_seconds\n"
COUNTS = {"parameters": 11, "macs": 12}


@pytest.fixture(params=[count_models, ghostify_models, digits_settings, export_families])
def tool(request, monkeypatch, tmp_path):
    """A tool that measures two networks or two seeds in no time; ``measured`` has their names."""
    module, measured = request.param, []

    def measure(name, *others):
        measured.append(name)
        return {"model": name, "replaced": 0, "family": "a", "image_size": 32, **COUNTS}

    def train(command, **options):
        measured.append(command[command.index("--seed") + 1])
        folder = command[command.index("--ckpt_save_dir") + 1]
        with open(f"{folder}/metrics.csv", "w") as file:
            file.write(f"{METRICS}1,22,1.2,0.02,0.6,81.9,100,70,20,5\n")
        return SimpleNamespace(returncode=0)

    argv = []
    if module is count_models:
        monkeypatch.setattr(module, "RESULTS", tmp_path)
        (tmp_path / "paper_tables.json").write_text('{"tables": []}')
        monkeypatch.setattr(module, "MODELS", [])
        monkeypatch.setattr(module, "zoo", lambda: ["a", "b"])
        monkeypatch.setattr(module, "count_registered", measure)
    elif module is ghostify_models:
        # main replaces it for the whole process; monkeypatch puts it back.
        kept = initializer.TruncatedNormal._initialize
        monkeypatch.setattr(initializer.TruncatedNormal, "_initialize", kept)
        monkeypatch.setattr(module, "cnns", lambda: ["a", "b"])
        monkeypatch.setattr(module, "attempt", measure)
    elif module is digits_settings:
        monkeypatch.setattr(module.subprocess, "run", train)
        argv = ["--seed", "1", "2"]
    else:
        monkeypatch.setattr(module, "FAMILIES", {"a": ("a", "b")})
        monkeypatch.setattr(module, "run_one", measure)
        argv = ["--folder", str(tmp_path), "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr(module, "OUT", tmp_path / "out.json")
    return SimpleNamespace(module=module, argv=argv, measured=measured, out=tmp_path / "out.json")


def test_a_record_names_the_commit_that_was_clean_before_it_was_written(tool, monkeypatch):
    def commit():
        # The record is one of the commit's files: once it is written, files differ.
        if tool.out.exists():
            raise UserError("this code is 0123456789ab-dirty: commit first, then measure")
        return "0123456789ab"

    monkeypatch.setattr(tool.module, "repeatable_commit", commit)
    assert tool.module.main(tool.argv) == 0
    assert len(tool.measured) == 2
    record = json.loads(tool.out.read_text())
    parts = record["runs"] if tool.module is digits_settings else [record]
    assert {part["commit"] for part in parts} == {"0123456789ab"}
    assert all(part["date"].endswith("+00:00") for part in parts)


def test_code_of_no_commit_is_refused_before_anything_is_measured(tool, monkeypatch, capsys):
    def commit():
        raise UserError("this code is 0123456789ab-dirty: commit first, then measure")

    monkeypatch.setattr(tool.module, "repeatable_commit", commit)
    assert tool.module.main(tool.argv) == 2
    assert "commit first, then measure" in capsys.readouterr().err
    assert tool.measured == [] and not tool.out.exists()
