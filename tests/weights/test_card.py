"""A card says the same to programs and to people, and a damaged one is refused."""

from __future__ import annotations

import dataclasses
import json

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
