"""Every family has a row in the table of exports, and the table says what was found."""

from __future__ import annotations

import json

import mindcv
import pytest
from mindcv.models import registry

import mindcv_ghost  # noqa: F401
from tools.measure import export_families
from tools.measure.export_families import (
    FAMILIES,
    agrees,
    networks,
    run_one,
    summarise,
    time_all,
    translate_all,
)
from tools.pages.export import export_failures, export_rows, export_sentence

RESULT = {
    "hardware": "a CPU",
    "commit": "abc",
    "versions": {"mindspore": "2.8.0", "mindcv": "0.3.0", "onnx": "1", "onnxruntime": "2"},
    "rows": [
        {
            **{"family": "good", "model": "good_a", "image_size": 224, "nodes": 12},
            **{"difference": 2e-6, "any_size": "takes images of one size", "milliseconds": 3.1},
            "mindspore": "Can not find key Erf in convert map. Exporting Erf operator is not yet",
        },
        {
            **{"family": "good", "model": "good_b", "image_size": 32, "nodes": 7},
            **{"difference": 3e-7, "any_size": 1e-6, "mindspore": 2e-7},
        },
        {"family": "far", "model": "far_a", "image_size": 224, "nodes": 3, "difference": 0.2},
        {"family": "gone", "model": "gone_a", "image_size": 224, "ours": "X in y can't"},
        {"family": "none", "model": "none_a", "image_size": 224, "cannot_run": "KeyError"},
    ],
}


def test_every_module_of_the_registry_is_a_family():
    modules = {
        registry.model_entrypoint(n).__module__.rpartition(".")[2] for n in mindcv.list_models()
    }
    assert set(FAMILIES) == modules
    assert len(modules) == 59


def test_every_network_belongs_to_its_family():
    for family, name, _ in networks(FAMILIES):
        assert registry.model_entrypoint(name).__module__.rpartition(".")[2] == family


def test_a_family_counts_if_all_its_networks_agree():
    assert summarise(RESULT["rows"]) == {"families": 4, "run": 3, "ours": 1, "mindspore": 0}


def test_a_row_says_what_each_exporter_did():
    first, second, far, gone, none = export_rows(RESULT)
    assert first == ("good", "`good_a`", 224, "refuses Erf", "2e-06", "no", 12, 3.1)
    assert second == ("good", "`good_b`", 32, "2e-07", "3e-07", "yes", 7, "–")
    assert far[4] == "**2e-01**"
    assert gone[4] == "refuses"
    assert none[3:5] == ("doesn't run in MindSpore",) * 2


def test_the_page_names_the_share_and_the_failures():
    assert "Of 4 families, 3 run in MindSpore. Of these, 1 (33%) are exported" in export_sentence(
        RESULT
    )
    assert export_failures(RESULT).splitlines() == [
        "- `far_a`: the logits differ",
        "- `gone_a`: X in y can't",
        "- `none_a` doesn't run in MindSpore: KeyError",
    ]


def test_times_of_another_machine_than_the_exports_are_said_to_be():
    assert "times" not in export_sentence(RESULT)
    assert "times" not in export_sentence({**RESULT, "hardware_of_times": "a CPU"})
    told = export_sentence({**RESULT, "hardware_of_times": "another CPU"})
    assert " a CPU, MindSpore 2.8.0, " in told
    assert told.endswith("; commit `abc`. The times are of another CPU.\n")


@pytest.mark.parametrize("hardware, kept", [("this CPU", [7.0, 3.0]), ("another CPU", [7.0, None])])
def test_times_of_one_machine_alone_stand_in_the_table(tmp_path, monkeypatch, hardware, kept):
    monkeypatch.setattr(export_families, "describe_hardware", lambda: "this CPU")
    monkeypatch.setattr(export_families, "milliseconds", lambda path, side: 7.0)
    rows = [{"model": m, "image_size": 32, "milliseconds": 3.0} for m in ("new", "old")]
    (tmp_path / "new.onnx").write_bytes(b"")
    result = {"hardware_of_times": hardware, "rows": rows}
    time_all(result, tmp_path)
    assert [row.get("milliseconds") for row in result["rows"]] == kept
    assert result["hardware_of_times"] == "this CPU"


@pytest.mark.parametrize(
    "far, status, told", [(0.2, 1, "1 of 2 registered"), (1e-6, 0, "2 of 2 registered")]
)
def test_translating_all_prints_what_fails_and_its_status_says_whether_anything_did(
    tmp_path, monkeypatch, capsys, far, status, told
):
    found = {"resnet18": {"difference": 1e-6}, "vgg11": {"difference": far}}
    found["pit_ti"] = {"cannot_run": "KeyError"}
    monkeypatch.setattr(mindcv, "list_models", lambda: list(found))
    monkeypatch.setattr(
        export_families, "run_one", lambda name, side, folder: {"model": name, **found[name]}
    )
    assert translate_all(2, tmp_path) == status
    *rows, last = capsys.readouterr().out.splitlines()
    assert [json.loads(row)["model"] for row in rows] == ["vgg11"] * status
    assert last == f"{told} networks agree; 1 more don't run"


@pytest.mark.slow
def test_a_network_is_measured_in_a_process_of_its_own(tmp_path):
    row = run_one("ghost_resnet20_cifar", 32, tmp_path, sizes=False)
    assert agrees(row["difference"]) and agrees(row["mindspore"])
    assert row["nodes"] == 107
    assert (tmp_path / "ghost_resnet20_cifar.onnx").exists()
    json.dumps(row)


@pytest.mark.zoo
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name, side", [entry[1:] for entry in networks(FAMILIES)])
def test_a_network_of_every_family_agrees_with_mindspore(name, side, tmp_path):
    row = run_one(name, side, tmp_path, sizes=False)
    if "cannot_run" in row:
        pytest.skip(row["cannot_run"])
    assert agrees(row["difference"]), row
