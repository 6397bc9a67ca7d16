"""What a command's configuration becomes with published weights."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mindcv_ghost.commands.job import ARRAY_SETS, read_job, use_published
from mindcv_ghost.config import load_config
from mindcv_ghost.errors import LaunchError
from mindcv_ghost.inference.description import Preprocessing
from mindcv_ghost.run.preprocessing import describe_recipe
from mindcv_ghost.weights import list_shipped
from tests.helpers.published import write_published

SHIPPED = {f"{one.card.model}-{one.card.name}": one.card for one in list_shipped()}


def preprocessing(*words: str) -> Preprocessing:
    config = use_published(words, load_config(words, script="validate"), "validate")
    return describe_recipe(config).preprocessing


def fields(value: Preprocessing) -> dict:
    return json.loads(json.dumps(dataclasses.asdict(value)))


def test_a_recipe_for_several_devices_is_validated_and_exported_in_one_process():
    words = ["--distribute", "true", "--ckpt_path", "best.ckpt"]
    for script in ("validate", "export"):
        assert read_job(words, script)[1].size == 1
    with pytest.raises(LaunchError, match="distribute is true, but this is a single process"):
        read_job(words, "train")


@pytest.mark.parametrize("name", SHIPPED)
def test_images_of_any_source_get_the_preprocessing_of_the_weights(name):
    card = SHIPPED[name]
    for options in ((), ("--dataset", "folder"), ("--dataset", card.data["dataset"])):
        words = ["--model", card.model, "--pretrained", card.name, *options]
        assert fields(preprocessing(*words)) == card.input


def test_what_the_command_line_says_of_it_counts(tmp_path):
    write_published(tmp_path / "pets", data={"name": "clothes", "dataset": "fashion_mnist"})
    words = ["--pretrained", str(tmp_path / "pets")]  # which were trained on images of 28x28
    found = preprocessing(*words, "--mean", "1", "--std", "2")
    assert (found.mean, found.std, found.resize) == ((1.0,), (2.0,), 28)
    found, layout = preprocessing(*words, "--crop_pct", "0.5"), ARRAY_SETS["fashion_mnist"]
    assert (found.mean, found.std, found.resize) == (layout.byte_mean, layout.byte_std, 56)
