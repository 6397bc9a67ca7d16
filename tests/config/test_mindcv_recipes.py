"""MindCV's own recipes load unchanged: each of their values, and whole recipes.

``mindcv_recipe_values.csv`` has the values of the recipes of MindCV main (Apache-2.0) and their
counts. The recipes below were written for this test, in the style of MindCV's for a ConvNet, a
vision transformer and a mobile network.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mindcv_ghost.config import load_config
from mindcv_ghost.config.keys import KEYS, RENAMED
from mindcv_ghost.config.raw_value import RawValue
from mindcv_ghost.config.recipe import read_recipe

TABLE = Path(__file__).parents[1] / "facts" / "mindcv_recipe_values.csv"

with TABLE.open(encoding="utf-8") as file:
    ROWS = list(csv.DictReader(line for line in file if not line.startswith("#")))


def test_the_facts_are_of_174_recipes():
    counted = {key: 0 for key in ("model", "lr", "opt")}
    for row in ROWS:
        if row["key"] in counted:
            counted[row["key"]] += int(row["recipes"])
    assert counted["model"] == counted["lr"] == counted["opt"] == 174


def test_every_value_in_mindcvs_recipes_is_legal(recipe):
    """Tested with read_recipe and the types, because load_config per value would take seconds."""
    for i in range(max(map(len, by_key().values()))):
        lines = [f"{key}: {texts[i]}" for key, texts in by_key().items() if i < len(texts)]
        read = read_recipe(recipe("\n".join(lines)))
        assert read.problems == []
        for key, raw in read.values.items():
            assert isinstance(raw, RawValue)
            if key in RENAMED:
                assert raw.value.lower() in RENAMED[key][1]
            else:
                KEYS[key].type.parse(raw)


def by_key() -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for row in ROWS:
        texts.setdefault(row["key"], []).append(row["value"])
    return texts


CONVNET = """\
# system
mode: 0
distribute: True
num_parallel_workers: 8
val_while_train: True

# dataset
dataset: 'imagenet'
data_dir: '/path/to/imagenet'
shuffle: True
dataset_download: False
batch_size: 32
drop_remainder: True

# augmentation
image_resize: 224
scale: [0.08, 1.0]
ratio: [0.75, 1.333]
hflip: 0.5
interpolation: 'bilinear'
crop_pct: 0.875

# model
model: 'resnet50'
num_classes: 1000
pretrained: False
ckpt_path: ''
keep_checkpoint_max: 10
ckpt_save_dir: './ckpt'
epoch_size: 120
dataset_sink_mode: True
amp_level: 'O2'

# loss
loss: 'CE'
label_smoothing: 0.1

# lr scheduler
scheduler: 'warmup_cosine_decay'
min_lr: 0.0
lr: 0.1
warmup_epochs: 0
decay_epochs: 120

# optimizer
opt: 'momentum'
weight_decay: 0.0001
momentum: 0.9
loss_scale: 1024
use_nesterov: False
"""
TRANSFORMER = """\
mode: 0
distribute: True
num_parallel_workers: 16
val_while_train: True
val_amp_level: 'O2'
dataset: "imagenet"
batch_size: 128
scale: [ 0.08, 1.0 ]
ratio: [ 0.75, 1.333 ]
vflip: 0.
interpolation: "bicubic"
auto_augment: "randaug-m9-mstd0.5-inc1"
re_prob: 0.25
re_value: "random"
mixup: 0.8
cutmix: 1.0
cutmix_prob: 1.0
color_jitter: [0.4, 0.4, 0.4]
aug_repeats: 3
model: "swin_tiny"
drop_rate: 0.0
drop_path_rate: 0.1
ema: True
ema_decay: 0.9995
clip_grad: True
clip_value: 5.0
ckpt_save_policy: 'top_k'
amp_level: "O2"
loss: "ce"
label_smoothing: 0.1
scheduler: "cosine_decay"
lr: 5e-4
min_lr: 1e-6
warmup_epochs: 20
warmup_factor: 0.002
decay_epochs: 280
epoch_size: 300
opt: "AdamW"
weight_decay: 0.05
weight_decay_filter: 'norm_and_bias'
layer_decay: 0.65
eps: 1e-8
loss_scale_type: "dynamic"
drop_overflow_update: True
loss_scale: 16777216.0
"""
MOBILE = """\
mode: 0
distribute: False
seed: 1
dataset: "imagenet"
batch_size: 75
image_resize: 240
model: "efficientnet_b1"
num_classes: 1001
amp_level: "O3"
loss_scale_type: 'auto'
scheduler: 'multi_step_decay'
multi_step_decay_milestones: [30, 40, 50, 60, 70, 80, 85]
decay_rate: 0.5
lr_epoch_stair: True
lr: 4.5e-3
opt: "rmsprop"
eps: 0.00000001
filter_bias_and_bn: True
aux_factor: 0.1
"""


@pytest.mark.parametrize("text", [CONVNET, TRANSFORMER, MOBILE], ids=["convnet", "vit", "mobile"])
@pytest.mark.parametrize("script", ["train", "validate"])
def test_a_recipe_in_mindcvs_style_loads_and_survives_saving(text, script, load):
    config = load(text, script=script)
    assert load(config.to_yaml(), script=script) == config


def test_values_of_a_recipe_mean_what_they_mean_in_mindcv(load):
    config = load(TRANSFORMER)
    assert config.optimizer.opt == "adamw"
    assert config.loss.loss == "CE"
    assert config.scheduler.lr == 5e-4
    assert config.augment.scale == (0.08, 1.0)
    assert config.augment.color_jitter == (0.4, 0.4, 0.4)
    assert config.amp.loss_scale == 16777216.0
    assert load_config([]).optimizer.opt == "adam"
