"""Rules about several keys together, which no key's type can check.

A problem is an error. A notice is logged, and the run goes on, as MindCV's does. Rules about
training don't apply to validate.py and export.py, which load the same recipes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from mindcv_ghost.config.auto_augment import notices_of_auto_augment
from mindcv_ghost.config.keys import AugmentConfig

__all__ = ["INTERPOLATIONS", "check_rules", "notices_of"]

Values = dict[str, Any]  # all keys by name
Problem = tuple[tuple[str, ...], str]  # the keys that contradict each other, the remedy

# MindSpore 2.8's vision.RandomCropDecodeResize takes these; ANTIALIAS needs a PIL image.
INTERPOLATIONS = ("bilinear", "linear", "bicubic", "cubic", "nearest", "area", "pilcubic")

# Data sets whose images have one small size, and keys without effect on them: their crop, mean and
# standard deviation are fixed.
_ARRAY_SETS = ("cifar10", "cifar100", "mnist", "fashion_mnist")
_FOR_FOLDERS = ("scale", "ratio", "vflip", "color_jitter", "mean", "std", "crop_pct")
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(AugmentConfig)}


def _images_and_weights(v: Values) -> Iterator[Problem]:
    if v["pretrained"] and v["ckpt_path"]:
        yield (
            ("pretrained", "ckpt_path"),
            "the network can start from one only: set pretrained: false, or leave ckpt_path out",
        )
    if v["dataset_download"] and v["dataset"] in ("imagenet", "folder", ""):
        yield (
            ("dataset_download", "dataset"),
            "only cifar10, cifar100, mnist and fashion_mnist can be downloaded: set "
            "dataset_download: false and point data_dir at the images",
        )
    if len(v["mean"]) != len(v["std"]):
        yield ("mean", "std"), "need equally many numbers, one a channel"
    if v["auto_augment"] and v["interpolation"] == "pilcubic":
        # vision.RandomRotation and RandomAffine: "Invalid InterpolationMode" (MindSpore 2.8).
        yield (
            ("interpolation", "auto_augment"),
            "the policy's rotations can't use pilcubic: set interpolation: bicubic",
        )


def _exported_file(v: Values) -> Iterator[Problem]:
    if not v["onnx"]:
        return
    for key in ("ckpt_path", "pretrained"):
        if v[key]:
            yield (("onnx", key), "one network can be validated: leave one of them out")
    if v["use_ema"]:
        yield (
            ("onnx", "use_ema"),
            "the file was exported with one set of weights: set use_ema: false, and export with "
            "--use_ema for the averaged ones",
        )


def _batches(v: Values) -> Iterator[Problem]:
    for key in ("mixup", "cutmix"):
        if v[key] and v["batch_size"] % 2 and v["batch_size"] > 1:
            yield (
                (key, "batch_size"),
                f"{key} mixes pairs of images: make batch_size even, or set {key}: 0",
            )
            break
    for key in ("mixup", "cutmix"):
        if v[key] and v["loss"] == "asl_single_label":
            yield (
                (key, "loss"),
                f"asl_single_label takes one class an image: set {key}: 0, or choose another loss",
            )
    if v["num_samples"] and v["aug_repeats"] > 0:
        yield (
            ("num_samples", "aug_repeats"),
            "can't be used together: set aug_repeats: 0, or leave num_samples out",
        )
    if v["aug_splits"] and not v["auto_augment"]:
        yield (
            ("aug_splits", "auto_augment"),
            "augmentation splits need a policy: set auto_augment: augmix-m5, or aug_splits: 0",
        )
    if v["aug_splits"] and (v["mixup"] or v["cutmix"]):
        yield (
            ("aug_splits", "mixup", "cutmix"),
            "mixing would blend an image's three copies: set mixup: 0 and cutmix: 0, or "
            "aug_splits: 0",
        )
    if v["aug_splits"] and v["dataset"] in _ARRAY_SETS:
        yield (
            ("aug_splits", "dataset"),
            "augmentation splits are for image folders: set aug_splits: 0",
        )
    if v["loss"] == "jsd" and not v["aug_splits"]:
        yield ("loss", "aug_splits"), "jsd compares augmentation splits: set aug_splits: 3"


def _learning_rate(v: Values) -> Iterator[Problem]:
    name = v["scheduler"]
    falling = ("cosine_decay", "warmup_cosine_decay", "one_cycle", "cyclic")
    if name in falling and v["min_lr"] > v["lr"] > 0:
        yield ("min_lr", "lr"), f"{name} falls from lr to min_lr: make min_lr the smaller"
    if name in ("one_cycle", "cyclic"):
        if v["warmup_epochs"]:
            yield (
                ("scheduler", "warmup_epochs"),
                f"{name} rises by itself: set warmup_epochs: 0",
            )
        if v["lr_epoch_stair"]:
            yield (
                ("scheduler", "lr_epoch_stair"),
                f"{name} changes every step: set lr_epoch_stair: false",
            )
    if name == "one_cycle" and v["min_lr"] == 0:
        yield ("scheduler", "min_lr"), "one_cycle divides by min_lr: make it larger than 0"
    # nn.SGD: "If nesterov is True, momentum must be positive".
    nesterov = v["opt"] == "nesterov" or (v["opt"] in ("sgd", "momentum") and v["use_nesterov"])
    if nesterov and v["momentum"] == 0:
        key = "opt" if v["opt"] == "nesterov" else "use_nesterov"
        yield (key, "momentum"), "Nesterov's momentum needs one: set momentum: 0.9"
    if v["layer_decay"] is not None and v["opt"] in ("nadam", "adan"):
        yield (
            ("layer_decay", "opt"),
            f"MindCV's {v['opt']} has one rate for all layers: set opt: adamw, or leave "
            "layer_decay out",
        )


def _checkpoints(v: Values) -> Iterator[Problem]:
    if v["ckpt_save_policy"] == "top_k" and not v["val_while_train"]:
        yield (
            ("ckpt_save_policy", "val_while_train"),
            "top_k keeps the checkpoints that validate best: set val_while_train: true, or "
            "ckpt_save_policy: latest_k",
        )


def _distillation(v: Values) -> Iterator[Problem]:
    if v["teacher"]:
        if not v["teacher_ckpt"]:
            yield (
                ("teacher", "teacher_ckpt"),
                "a network with random weights has nothing to teach: give its file with "
                "teacher_ckpt",
            )
        return
    for key in ("teacher_ckpt", "teacher_ema", "teacher_args"):
        if v[key]:
            yield (key, "teacher"), f"name the teacher's network with teacher, or leave {key} out"
    for key in ("distill_alpha", "distill_temperature"):
        if v[key] is not None:
            yield (key, "teacher"), f"there is no teacher: name one, or leave {key} out"


def _files_to_export(v: Values) -> Iterator[Problem]:
    if not v["format"]:
        yield ("format",), "no file would be written: name onnx, mindir or both"
    if v["dynamic"] == ("size",):
        yield ("dynamic",), "size alone can't vary: give batch,size"
    for key in ("fp16", "embed_preprocess", "int8", "web", "triton"):
        if v[key] and "onnx" not in v["format"]:
            yield (key, "format"), f"{key} is for the ONNX file: add onnx to the formats"
    for key in ("fp16", "embed_preprocess"):
        if v[key] and {"onnx", "mindir"} <= set(v["format"]):
            yield (
                (key, "format"),
                f"{key} is for the ONNX file, and one JSON file describes both: write the .mindir "
                "file by a command of its own",
            )
    if v["int8"] and v["fp16"]:
        yield ("int8", "fp16"), "the weights are either int8 or float16: leave fp16 out"
    if v["int8_report"] and not v["int8"]:
        yield ("int8_report", "int8"), "there is no int8 file to report on: give --int8 FOLDER"


def _embedded_preprocessing(v: Values) -> Iterator[Problem]:
    if not v["embed_preprocess"]:
        return
    if "size" in v["dynamic"]:
        yield (
            ("embed_preprocess", "dynamic"),
            "pictures of any size are resized to the network's one size: give --dynamic batch",
        )
    if v["interpolation"] in ("area", "pilcubic"):
        yield (
            ("embed_preprocess", "interpolation"),
            "the ONNX file can resize by bilinear, bicubic and nearest, and another resizing than "
            "the training's costs accuracy: leave embed_preprocess out",
        )


_Rule = Callable[[Values], Iterator[Problem]]
_ALWAYS: tuple[_Rule, ...] = (_images_and_weights,)
_OF_SCRIPT: dict[str, tuple[_Rule, ...]] = {
    "train": (_batches, _learning_rate, _checkpoints, _distillation),
    "validate": (_exported_file,),
    "export": (_files_to_export, _embedded_preprocessing),
}


def check_rules(values: Values, script: str) -> list[Problem]:
    """Return all contradictions between keys.

    Args:
        values: all keys by name, parsed.
        script: "train", "validate" or "export".
    """
    rules = _ALWAYS + _OF_SCRIPT.get(script, ())
    return [found for rule in rules for found in rule(values)]


def notices_of(values: Values, script: str) -> list[str]:
    """Return a line for each key that, as in MindCV, has no effect or another one than expected.

    Args:
        values: all keys by name, parsed.
        script: "train", "validate" or "export".
    """
    notices = notices_of_auto_augment(values["auto_augment"]) if values["auto_augment"] else []
    if values["eval_shuffle"]:
        notices.append("eval_shuffle has no effect: validation keeps the set's order")
    if values["dataset"] in _ARRAY_SETS:
        keys = (*_FOR_FOLDERS, "hflip") if values["dataset"] == "mnist" else _FOR_FOLDERS
        if not values["auto_augment"]:
            keys = (*keys, "interpolation")
        given = [key for key in keys if values[key] != _DEFAULTS[key]]
        if given:
            have = "have" if len(given) > 1 else "has"
            notices.append(
                f"{', '.join(given)} {have} no effect on {values['dataset']}, whose crop, mean and "
                "standard deviation are its own"
            )
    if script != "train":
        return notices
    v = values
    if v["resume_anyway"] and not v["resume"]:
        notices.append("resume_anyway has no effect without resume: a new run starts")
    if v["loss_scale_type"] == "dynamic" and not v["drop_overflow_update"]:
        notices.append(
            "loss_scale_type dynamic skips steps that overflow, whatever drop_overflow_update says"
        )
    if (v["mixup"] or v["cutmix"]) and v["batch_size"] == 1:
        notices.append("batch_size 1 has no pairs: mixup and cutmix are off")
    if v["teacher"] and v["distill_alpha"] == 0:
        notices.append("distill_alpha 0: the teacher is run, but nothing is learnt from it")
    if v["loss_scale_type"] == "auto" and v["amp_level"] != "O2" and v["loss_scale"] > 1:
        notices.append("loss_scale has no effect: loss_scale_type auto scales with amp_level O2")
    if v["aux_factor"] and v["loss"] != "CE":
        notices.append(f"aux_factor has no effect with loss {v['loss']}: set loss: CE")
    if v["opt"] == "adan" and v["weight_decay"] and v["weight_decay_filter"] != "auto":
        notices.append(
            "weight_decay has no effect on MindCV's adan, unless weight_decay_filter is auto: then "
            "it applies to all parameters"
        )
    milestones = v["multi_step_decay_milestones"]
    if v["scheduler"] == "multi_step_decay" and any(
        v["warmup_epochs"] + epoch >= v["epoch_size"] for epoch in milestones
    ):
        notices.append(
            f"multi_step_decay_milestones {', '.join(map(str, milestones))} count from the end of "
            f"warmup_epochs {v['warmup_epochs']}, so not all are reached in {v['epoch_size']} "
            "epochs"
        )
    if v["re_prob"] and v["re_value"] not in (0, (0, 0, 0), "random"):
        notices.append(
            "re_value is written after normalisation, as in MindCV: 0 is the mean colour, and "
            "other numbers are far from any pixel"
        )
    if v["loss"] == "asl_multi_label" and v["label_smoothing"]:
        notices.append("label_smoothing has no effect on asl_multi_label")
    if v["loss"] in ("asl_single_label", "asl_multi_label") and v["reduction"] != "mean":
        notices.append(f"reduction has no effect on {v['loss']}")
    if v["lr"] == 0:
        notices.append("lr 0: nothing will be learnt")
    if v["warmup_epochs"] and v["warmup_factor"] == 0 and v["lr_epoch_stair"]:
        notices.append(
            "warmup_factor 0 with lr_epoch_stair: the learning rate of the whole first epoch is 0; "
            "MindCV recommends 0.01"
        )
    if v["warmup_epochs"] > v["epoch_size"]:
        notices.append(
            f"warmup_epochs {v['warmup_epochs']} is longer than epoch_size {v['epoch_size']}: the "
            "learning rate never reaches lr"
        )
    elif (
        v["scheduler"] in ("cosine_decay", "warmup_cosine_decay")
        and v["warmup_epochs"] + v["decay_epochs"] > v["epoch_size"]
    ):
        notices.append(
            f"warmup_epochs {v['warmup_epochs']} + decay_epochs {v['decay_epochs']} is more than "
            f"epoch_size {v['epoch_size']}: the learning rate never reaches min_lr"
        )
    return notices
