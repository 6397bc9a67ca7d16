"""A card says the same to programs and to people, and a damaged one is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex

import pytest

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.weights.card import Card
from tests.helpers.published import make_card


def test_a_card_survives_json():
    card = make_card()
    read = Card.from_json(card.to_json(), "card.json")
    assert read == dataclasses.replace(card, input={**card.input})
    assert read.class_names == ("ant", "bee", "cow")


def test_people_read_counts_data_recipe_seed_commit_and_licence():
    text = make_card().to_markdown({"model.safetensors": 290_000})
    for part in (
        "# pets: ghost_resnet20_cifar\n",
        "| model | `ghost_resnet20_cifar ratio=3` |",
        "| data | pets, 1,000 training images |",
        "| classes | 3 (ant, bee, cow) |",
        "| top-1 | 91.00 % (91 of 100 images), split val |",
        "| top-3 | 100 of 100 images |",
        "| input | 1 x 28 x 28, resized to 28 (bilinear) and cropped; mean 73, standard dev",
        "| seed | 0 |",
        "| epochs | 15; these weights: last.ckpt |",
        "| commit | 0123456789ab |",
        "| licence | CC0-1.0 |",
        "| `model.safetensors` | 0.29 MB |",
        "the run's checkpoint has 92 right answers",
    ):
        assert part in text
    assert "bit for bit" in make_card(dtype="float32").to_markdown({})


def test_people_read_who_taught_a_distilled_network():
    teacher = {
        **{"model": "ghost_resnet20_cifar", "args": {"ratio": 4}, "checkpoint": "last.ckpt"},
        **{"ema": True, "weights": "9e9ba91d69c80e81", "alpha": 0.9, "temperature": 4.0},
    }
    card = make_card(training={**make_card().training, "teacher": teacher})
    assert (
        "| teacher | `ghost_resnet20_cifar ratio=4` (averaged weights of last.ckpt, digest of the "
        "weights 9e9ba91d69c80e81); distilled with alpha 0.9 and temperature 4 |"
    ) in card.to_markdown({})
    assert "teacher" not in make_card().to_markdown({})


def with_training(**changes):
    return make_card(training={**make_card().training, **changes})


def test_people_read_the_versions_and_what_was_changed_midway_if_anything_was():
    history = [
        {"epoch": 1, "step": 0, "batches": 6, "changes": ["lr: 0.1 before, 0.2 now"]},
        {"epoch": 2, "step": 3, "batches": 15, "changes": ["a: 1 before, 2 now", "b: c"]},
    ]
    versions = {"mindcv_ghost": "0.1.0", "mindspore": "2.8.0", "pillow": ""}
    text = with_training(history=history, versions=versions).to_markdown({})
    assert (
        "| settings changed | after 1 epoch: lr: 0.1 before, 0.2 now. after 2 epochs and 3 "
        "batches: a: 1 before, 2 now; b: c |\n| versions | mindcv_ghost 0.1.0, mindspore 2.8.0 |"
    ) in text
    text = with_training(history=[]).to_markdown({})
    assert "settings changed" not in text and "versions" not in text


def test_what_is_not_known_is_left_out():
    text = with_training(commit=None, recipe=None, hardware=None, seed=0).to_markdown({})
    assert "None" not in text and "| commit" not in text and "| hardware" not in text
    assert "| recipe | all settings: [config.yaml](config.yaml) |\n" in text
    assert "| seed | 0 |\n" in text


def test_any_class_name_is_a_part_of_one_cell():
    names = ("a|b", os.fsdecode(b"caf\xe9"), "two\nlines", "h\u00e9")
    text = make_card(class_names=names, num_classes=4).to_markdown({})
    assert "| classes | 4 (a\\|b, caf\\udce9, two\\nlines, h\u00e9) |\n" in text
    text.encode()


@pytest.mark.parametrize(("dataset", "split"), [("", "my val"), ("folder", "val"), ("a", "")])
def test_the_command_of_the_text_has_the_words_of_the_card(dataset, split):
    data = {**make_card().data, "dataset": dataset, "val_split": split}
    lines = make_card(data=data).to_markdown({}).splitlines()
    command = shlex.split(next(line for line in lines if line.startswith("mindcv-ghost validate")))
    options = dict(zip(command[2::2], command[3::2]))
    assert (options["--dataset"], options["--val_split"]) == (dataset, split)


def test_the_text_of_a_ghostified_network_has_no_call_that_is_refused():
    assert 'create_model("ghost_resnet20_cifar", pretrained="FOLDER")' in make_card().to_markdown(
        {}
    )
    text = make_card(ghostify={"ratio": 2}).to_markdown({})
    assert "```python" not in text and "apply `mindcv_ghost.surgery.ghostify` and load" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "of version 2, and this release of mindcv_ghost reads version 1"),
        ({"version": None}, "it has no version"),
        ({"model": 3}, "model has an illegal value"),
        ({"num_classes": "3"}, "num_classes has an illegal value"),
        ({"num_classes": True}, "num_classes has an illegal value"),
        ({"accuracy": {"correct": 5, "images": 4}}, "accuracy has an illegal value"),
        ({"accuracy": {"correct": 0, "images": 0}}, "accuracy has an illegal value"),
        ({"accuracy": {}}, "accuracy has an illegal value"),
        ({"class_names": [1]}, "class_names has an illegal value"),
        ({"class_names": None}, "class_names has an illegal value"),
        ({"model_args": []}, "model_args has an illegal value"),
    ],
)
def test_an_illegal_field_is_named(change, message):
    text = json.dumps({**dataclasses.asdict(make_card()), **change})
    with pytest.raises(CheckpointError, match=f"card.json .*{message}"):
        Card.from_json(text, "card.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}', "[" * 100_000])
def test_what_is_no_card_is_told(text):
    with pytest.raises(CheckpointError, match="can't be read as the card of a published network"):
        Card.from_json(text, "card.json")


def test_fields_of_a_later_release_with_the_same_version_are_left_alone():
    text = json.dumps({**dataclasses.asdict(make_card()), "more": 1})
    assert Card.from_json(text, "card.json").name == "pets"
