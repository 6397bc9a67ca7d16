"""The model repository for Triton, held against Triton's own schema."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mindcv_ghost.errors import DataError, UserError
from mindcv_ghost.export.serving import write_triton_repository
from mindcv_ghost.inference.description import ModelDescription
from tests.helpers.digits_onnx import DESCRIPTION, NAMES, write_digits_onnx

# Parses a config.pbtxt by ModelConfig of tritonclient, which Triton's own build generates, and
# prints it as JSON. In a process of its own: MindSpore may have chosen another protobuf. The module
# is loaded by its path, because its package imports gRPC.
PARSE = """
import importlib.util, sys
from pathlib import Path
from google.protobuf import json_format, text_format
[package] = importlib.util.find_spec("tritonclient").submodule_search_locations
path = Path(package, "grpc", "model_config_pb2.py")
spec = importlib.util.spec_from_file_location("model_config_pb2", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
config = text_format.Parse(Path(sys.argv[1]).read_text(), module.ModelConfig())
print(json_format.MessageToJson(config, preserving_proto_field_name=True))
"""


def parsed(path: Path) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def repository(tmp_path: Path, description=DESCRIPTION, batch=None) -> Path:
    write_digits_onnx(tmp_path / "digits.onnx", description, batch)
    write_triton_repository(tmp_path / "models", tmp_path / "digits.onnx")
    return tmp_path / "models" / description.model


def test_the_configuration_fits_tritons_schema_and_the_file(tmp_path):
    model = repository(tmp_path)
    assert parsed(model / "config.pbtxt") == {
        "name": "digits_conv",
        "platform": "onnxruntime_onnx",
        "max_batch_size": 32,
        "input": [
            {
                "name": "image",
                "data_type": "TYPE_FP32",
                "format": "FORMAT_NCHW",
                "dims": ["3", "32", "32"],
            }
        ],
        "output": [
            {
                "name": "logits",
                "data_type": "TYPE_FP32",
                "dims": ["10"],
                "label_filename": "labels.txt",
            }
        ],
        "instance_group": [{"count": 1}],  # KIND_AUTO is 0
        "dynamic_batching": {"max_queue_delay_microseconds": "1000"},
    }


def test_the_schema_refuses_what_triton_does_not_know(tmp_path):
    path = tmp_path / "config.pbtxt"
    path.write_text('name: "x" max_batch: 32')
    with pytest.raises(AssertionError, match="max_batch"):
        parsed(path)


def test_the_repository_has_the_network_its_labels_and_its_description(tmp_path):
    model = repository(tmp_path)
    assert sorted(str(p.relative_to(model)) for p in model.rglob("*") if p.is_file()) == [
        "1/model.onnx",
        "config.pbtxt",
        "digits_conv.json",
        "labels.txt",
    ]
    assert (model / "1" / "model.onnx").read_bytes() == (tmp_path / "digits.onnx").read_bytes()
    assert (model / "labels.txt").read_text().splitlines() == list(NAMES)
    text = (model / "digits_conv.json").read_text()
    assert ModelDescription.from_json(text, "digits_conv.json") == DESCRIPTION


def test_a_fixed_batch_is_part_of_the_shape_and_is_not_grown(tmp_path):
    config = parsed(repository(tmp_path, batch=1) / "config.pbtxt")
    assert "max_batch_size" not in config  # 0
    assert "dynamic_batching" not in config
    assert config["input"][0]["dims"] == ["1", "3", "32", "32"]
    assert "format" not in config["input"][0]  # Triton wants three dimensions for one
    assert config["output"][0]["dims"] == ["1", "10"]


def test_embedded_preprocessing_takes_bytes_of_any_size(tmp_path):
    description = replace(DESCRIPTION, preprocessing=None, embedded_preprocessing=True)
    [taken] = parsed(repository(tmp_path, description) / "config.pbtxt")["input"]
    assert (taken["name"], taken["data_type"]) == ("picture", "TYPE_UINT8")
    assert taken["dims"] == ["1", "-1", "-1", "3"]


def test_without_class_names_there_is_no_label_file(tmp_path):
    model = repository(tmp_path, replace(DESCRIPTION, class_names=()))
    assert not (model / "labels.txt").exists()
    assert "label_filename" not in parsed(model / "config.pbtxt")["output"][0]


def test_a_label_is_one_line(tmp_path):
    names = ("nought\nor zero", *NAMES[1:])
    model = repository(tmp_path, replace(DESCRIPTION, class_names=names))
    assert (model / "labels.txt").read_text().splitlines() == ["nought or zero", *NAMES[1:]]


def test_other_models_of_a_repository_are_left_alone(tmp_path):
    other = tmp_path / "models" / "other" / "config.pbtxt"
    other.parent.mkdir(parents=True)
    other.write_text("name: 'other'")
    repository(tmp_path)
    repository(tmp_path)
    assert other.read_text() == "name: 'other'"
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"digits_conv", "other"}


def test_a_configuration_that_was_changed_by_hand_is_kept_as_a_copy(tmp_path):
    model = repository(tmp_path)
    ours = (model / "config.pbtxt").read_text()
    repository(tmp_path)
    assert not (model / "config.pbtxt.old").exists()
    (model / "config.pbtxt").write_text(ours.replace("platform", "backend"))
    repository(tmp_path)
    assert (model / "config.pbtxt").read_text() == ours
    assert (model / "config.pbtxt.old").read_text() == ours.replace("platform", "backend")


def test_what_cannot_be_read_or_written_is_told(tmp_path):
    write_digits_onnx(tmp_path / "foreign.onnx", None)
    with pytest.raises(DataError, match="foreign.onnx: the description"):
        write_triton_repository(tmp_path / "models", tmp_path / "foreign.onnx")
    assert not (tmp_path / "models").exists()
    write_digits_onnx(tmp_path / "digits.onnx")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't be written to .*file: "):
        write_triton_repository(tmp_path / "file", tmp_path / "digits.onnx")
