"""Tables come from recorded results, and a stale one is found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mindcv_ghost.config.keys import keys_of
from mindcv_ghost.report import ReportError
from tools.pages import tables
from tools.pages.record_run import record_run
from tools.pages.zoo_tables import ghostify_digits_rows, ghostify_digits_sentence

ROOT = Path(__file__).resolve().parents[2]

RECIPE = """# A title.
#
# Command:  python train.py \\
#             --config configs/ghostnet/ghost_resnet50_digits.yaml
# Hours:    0.1 (measured)
# Accuracy: not measured
model: ghost_resnet50
dataset: digits
num_classes: 10
epoch_size: 2
"""
COMPLEXITY = {
    "kind": "complexity",
    "models": [
        {
            "model": "ghost_resnet50",
            "ratio": 2,
            "parameters": 13_953_512,
            "macs": 2_151_023_360,
            "features": 2048,
        }
    ],
}


@pytest.fixture
def project(tmp_path):
    (tmp_path / "results").mkdir()
    folder = tmp_path / "configs" / "ghostnet"
    folder.mkdir(parents=True)
    (folder / "ghost_resnet50_digits.yaml").write_text(RECIPE)
    (tmp_path / "results" / "complexity.json").write_text(json.dumps(COMPLEXITY))
    names = ("results", "runs", "paper", "counts", "classifier", "recipes", "digits")
    marks = "\n".join(f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n" for name in names)
    (folder / "README.md").write_text(f"# Page\n\n{marks}\nThe end.\n")
    return tmp_path


def page(project):
    return (project / "configs" / "ghostnet" / "README.md").read_text()


def test_stale_page_is_found_then_mended_then_fresh(project, capsys):
    root = ["--root", str(project)]
    assert tables.main([*root, "--check"]) == 1
    assert "README.md is stale" in capsys.readouterr().out
    assert "old" in page(project)
    assert tables.main(root) == 0
    assert "old" not in page(project)
    assert page(project).startswith("# Page\n") and page(project).endswith("\nThe end.\n")
    assert tables.main([*root, "--check"]) == 0


def test_recipe_without_a_run_says_not_measured_but_counts_parameters(project):
    tables.main(["--root", str(project)])
    row = next(line for line in page(project).splitlines() if line.startswith("| ghost_resnet50 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # 13,953,512 less 990 of the classifier's 1,000 rows of 2,049
    assert cells[1:7] == ["–", *["not measured"] * 2, "11.93", *["not measured"] * 2]
    assert cells[8] == "[cfg](ghost_resnet50_digits.yaml)"


def test_recorded_run_fills_its_row_and_its_provenance(project, run_folder):
    record_run(run_folder, project / "results" / "digits.json")
    tables.main(["--root", str(project)])
    assert (
        "| ghost_resnet50 | CPUx2-G | 98.06 | 100.00 | 11.93 | 32.0 | 123.5 (batch 16) | – "
        "| [cfg](ghost_resnet50_digits.yaml) | [log](../../results/digits_log.txt), "
        "[metrics](../../results/digits_metrics.csv) |" in page(project)
    )
    assert "seed 42, commit `0123456789ab`, 2026-11-23, Some CPU, 2 cores" in page(project)
    assert "98.06 % top-1 of the 360 validation digits in the best of 2 epochs" in page(project)


def test_counts_stand_beside_the_papers(project):
    (project / "results" / "paper.json").write_bytes(
        (ROOT / "results" / "ghostnet_paper.json").read_bytes()
    )
    tables.main(["--root", str(project)])
    assert "| `ghost_resnet50` | 2 | 13,953,512 | 13.95 | 2.151 | 13.0 | 2.2 |" in page(project)
    assert "| Ghost-ResNet-50 (s = 4) | 74.1 | 91.9 | 6.5 | 1.2 |" in page(project)


@pytest.mark.parametrize(
    "parameters, ratio, expected", [(13_953_512, 2, 12_930_012), (8_151_752, 4, 6_616_502)]
)
def test_ghosted_classifier_is_counted_as_a_network_with_it_was(parameters, ratio, expected):
    # The expected counts were taken from PyTorch networks built that way.
    assert tables.with_ghosted_classifier(parameters, 2048, 1000, ratio) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- results:begin -->\n", "both :begin and :end"),
        ("<!-- result:begin -->\n<!-- result:end -->\n", "no table result; there are results"),
    ],
)
def test_wrong_marker_is_named(project, text, message):
    with pytest.raises(ReportError, match=message):
        tables.fill(project / "README.md", text, tables.Sources(project))


def test_the_digits_experiment_gives_mean_and_spread_of_its_seeds():
    curves = {"base": [10.0, 98.0], "random": [10.0, 50.0, 90.0], "fit": [95.0, 97.0, 98.0]}
    result = {
        **{"model": "resnet18", "ratio": 2, "image_size": 40, "calibration_images": 256},
        **{"training": {"epochs": 1}, "fine_tuning": {"epochs": 2, "lr": 0.01}},
        **{"hardware": "a CPU", "versions": {"mindspore": "2.8.0"}, "commit": "abc"},
        "parts": [
            {
                **{"part": part, "seed": seed, "parameters": 11_180_000, "macs": 70_000_000},
                "top1": [value + seed for value in curve],
            }
            for seed in range(3)
            for part, curve in curves.items()
        ],
    }
    head, rows = ghostify_digits_rows(result)
    assert head[3:] == ("at the start", "epoch 1", "epoch 2")
    assert rows[0] == ("`resnet18`, as trained", "11.18", "70.00", "99.00 ± 1.00", "–", "–")
    assert rows[2][3:] == ("96.00 ± 1.00", "98.00 ± 1.00", "99.00 ± 1.00")
    assert "3 seeds" in ghostify_digits_sentence(result)


def test_unknown_kind_of_result_is_an_error(project, capsys):
    (project / "results" / "x.json").write_text('{"kind": "guess"}')
    assert tables.main(["--root", str(project)]) == 2
    assert "x.json: kind is 'guess'" in capsys.readouterr().err


def test_pages_of_this_project_agree_with_its_results(capsys):
    assert tables.main(["--check", "--root", str(ROOT)]) == 0, capsys.readouterr()


def test_every_key_has_a_row_with_its_default():
    page = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| `([^`]*)` \|$", page, flags=re.MULTILINE))
    assert set(rows) == set(keys_of("export"))
    assert (rows["batch_size"], rows["model_args"]) == ("128", "{}")
