"""An export from checkpoint to checked files, in one process with a network that compiles soon."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import mindcv
import mindspore as ms
import numpy as np
import onnx
import pytest
from PIL import Image

import mindcv_ghost
from mindcv_ghost.config import load_config
from mindcv_ghost.errors import CheckpointError, DataError, UserError
from mindcv_ghost.export import onnx_file
from mindcv_ghost.export.verification import VerificationError
from mindcv_ghost.inference.description import ModelDescription
from mindcv_ghost.inference.opening import open_runtime
from mindcv_ghost.inference.preprocessing import preprocess, to_pixels
from mindcv_ghost.run.export import create_export, for_export, report_export
from mindcv_ghost.run.session import Session
from mindcv_ghost.storage.checkpoint import save_weights

from ..helpers.tiny_network import tiny_registered

SIDE = 32
CLASSES = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """12 validation images of five classes, of several sizes; PNG, so that all decoders agree."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(12):
        place = folder / "val" / CLASSES[number % 5]
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (40 + number, 60 - number, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def registered():
    """The tiny network is in MindCV's registry while these tests run."""
    with tiny_registered("tiny_export") as name:
        yield name


@pytest.fixture(scope="module")
def checkpoint(registered, tmp_path_factory) -> Path:
    ms.set_seed(3)
    network = mindcv.create_model(registered, num_classes=5)
    path = tmp_path_factory.mktemp("checkpoint") / "best.ckpt"
    save_weights(list(network.get_parameters()), path)
    return path


@pytest.fixture
def export(images, checkpoint, tmp_path):
    """export(option, value, ...) -> the summary; files go to tmp_path/out."""

    def run(*words, data: bool = True) -> dict:
        options = ["--model", "tiny_export", "--ckpt_path", checkpoint, "--image_resize", SIDE]
        options += ["--data_dir", images] if data else ["--num_classes", 5]
        options += ["--output", tmp_path / "out", "--batch_size", 8, "--native_kernels", "false"]
        argv = [str(word) for word in (*options, *words)]
        config = for_export(load_config(argv, script="export"))
        return create_export(config, Session("CPU", None)).run()

    return run


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def described(folder: Path) -> ModelDescription:
    path = folder / "tiny_export.json"
    return ModelDescription.from_json(path.read_text(), str(path))


def test_both_files_are_written_checked_and_described(export, checkpoint, tmp_path):
    summary = export("--format", "onnx", "mindir")
    out = tmp_path / "out"
    names = ["tiny_export.json", "tiny_export.mindir", "tiny_export.onnx"]
    assert files(out) == names
    assert summary["files"] == [str(out / name) for name in names]
    assert (summary["images"], summary["synthetic"]) == (12, False)
    assert set(summary["largest_difference"]) == {"tiny_export.onnx", "tiny_export.mindir"}
    assert 0 < max(summary["largest_difference"].values()) < 1e-5
    found = described(out)
    assert found.class_names == CLASSES
    assert found.accuracy["images"] == 12 and found.accuracy["split"] == "val"
    assert found.checkpoint["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (found.checkpoint["file"], found.checkpoint["ema"]) == ("best.ckpt", False)
    assert f"image_resize: {SIDE}\n" in found.recipe
    assert found.versions["mindspore"] == ms.__version__
    inside = {p.key: p.value for p in onnx.load(out / "tiny_export.onnx").metadata_props}
    assert ModelDescription.from_metadata(inside, "x") == found
    onnx.checker.check_model(str(out / "tiny_export.onnx"), full_check=True)


def test_accuracy_is_that_of_the_file_on_the_labelled_images(export, images, tmp_path):
    accuracy = export()["accuracy"]["tiny_export.onnx"]
    classify = mindcv_ghost.Classifier(tmp_path / "out" / "tiny_export.onnx")
    paths = sorted((images / "val").rglob("*.png"))
    found = [classify(path, topk=1)[0].label == path.parent.name for path in paths]
    assert accuracy["top1"] == pytest.approx(100 * sum(found) / 12, abs=1e-4)
    assert accuracy["top5"] == 100.0


def test_fewer_images_are_spread_over_the_set(export):
    accuracy = export("--verify_images", 5)["accuracy"]["tiny_export.onnx"]
    assert accuracy["images"] == 4  # every third of 12


@pytest.fixture
def first_is_cut(images, tmp_path) -> Path:
    """The images, but of the first one only the beginning."""
    folder = tmp_path / "cut"
    shutil.copytree(images, folder)
    first = min((folder / "val").rglob("*.png"))
    first.write_bytes(first.read_bytes()[:400])
    return folder


def test_a_batch_of_bad_images_alone_is_left_out(export, first_is_cut):
    words = ("--data_dir", first_is_cut, "--on_bad_image", "skip", "--batch_size", 1)
    accuracy = export(*words)["accuracy"]["tiny_export.onnx"]
    assert accuracy["images"] == 11


def test_that_no_image_can_be_read_is_one_message(export, first_is_cut, tmp_path):
    words = ("--data_dir", first_is_cut, "--on_bad_image", "skip", "--verify_images", 1)
    with pytest.raises(DataError) as refused:
        export(*words)
    first = min((first_is_cut / "val").rglob("*.png"))
    text = str(refused.value)
    told = "--verify_images 1: not one of these images (1 of 12 validation images) can be read."
    assert text.startswith(f"{told} The first is {first}: ")
    assert "unreadable" not in text  # the reason is named
    assert text.endswith("or all; 0 checks the exported files on random numbers.")
    assert not (tmp_path / "out").exists()


def test_without_data_it_says_that_images_are_synthetic(export, tmp_path, caplog):
    with caplog.at_level("INFO"):
        summary = export("--format", "onnx", "mindir", data=False)
    assert (summary["images"], summary["synthetic"]) == (8, True)
    assert summary["accuracy"] == {"tiny_export.onnx": {}, "tiny_export.mindir": {}}
    assert "synthetic images (random numbers), not on real ones" in caplog.text
    found = described(tmp_path / "out")
    assert (found.accuracy, found.class_names, found.num_classes) == ({}, (), 5)
    assert found.preprocessing.height == SIDE


def test_embedded_preprocessing_takes_pictures_and_gives_the_same_logits(export, images, tmp_path):
    summary = export("--embed_preprocess")
    assert summary["largest_difference"]["tiny_export.onnx"] < 1e-5
    embedded = open_runtime(tmp_path / "out" / "tiny_export.onnx")
    assert embedded.description.embedded_preprocessing
    export()  # replaces the files
    plain = open_runtime(tmp_path / "out" / "tiny_export.onnx")
    assert not plain.description.embedded_preprocessing
    for path in sorted((images / "val").rglob("*.png"))[::4]:
        expected = plain.logits(preprocess(path, plain.description.preprocessing)[np.newaxis])
        assert np.array_equal(embedded.logits(to_pixels(path)[np.newaxis]), expected)


def test_float16_halves_the_file_within_its_own_tolerance(export, tmp_path):
    export()
    size = (tmp_path / "out" / "tiny_export.onnx").stat().st_size
    difference = export("--fp16")["largest_difference"]["tiny_export.onnx"]
    assert (tmp_path / "out" / "tiny_export.onnx").stat().st_size < 0.65 * size
    assert 1e-5 < difference < 2e-2


def test_int8_is_measured_and_stands_beside_float32(export, images, tmp_path):
    summary = export(
        "--int8", images / "val", "--max_drop", 100, "--int8_report", tmp_path / "r.csv"
    )
    assert files(tmp_path / "out") == [
        *("tiny_export.json", "tiny_export.onnx", "tiny_export_int8.json", "tiny_export_int8.onnx")
    ]
    metadata = {p.key for p in onnx.load(tmp_path / "out/tiny_export_int8.onnx").metadata_props}
    found = open_runtime(tmp_path / "out" / "tiny_export_int8.onnx").description
    assert len(metadata) == len(found.to_metadata())
    assert found.quantisation["top1_float32"] == summary["accuracy"]["tiny_export.onnx"]["top1"]
    assert found.quantisation["top1_int8"] == pytest.approx(found.accuracy["top1"], abs=1e-3)
    assert summary["quantisation"] == {"tiny_export_int8.onnx": found.quantisation}
    assert described(tmp_path / "out").quantisation == {}
    assert len((tmp_path / "r.csv").read_text().splitlines()) >= 3


def spoil(monkeypatch, change) -> None:
    build = onnx_file.build_onnx

    def wrong(*args, **kwargs):
        model = build(*args, **kwargs)
        [bias] = [t for t in model.graph.initializer if list(t.dims) == [5]]
        values = onnx.numpy_helper.to_array(bias).copy()
        change(values)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return model

    monkeypatch.setattr(onnx_file, "build_onnx", wrong)


def test_a_file_that_answers_otherwise_is_refused_and_nothing_is_left(
    export, images, tmp_path, monkeypatch
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiny_export.onnx").write_text("an older file")

    def change(bias):
        bias[2] += 1e3

    spoil(monkeypatch, change)
    with pytest.raises(VerificationError) as refused:
        export("--format", "onnx", "mindir")
    first = min((images / "val").rglob("*.png"))
    assert f"The first image that differs is {first}: " in str(refused.value)
    assert "the file class 2 (cat)" in str(refused.value)
    assert files(tmp_path / "out") == ["tiny_export.onnx"]
    assert (tmp_path / "out" / "tiny_export.onnx").read_text() == "an older file"


def test_a_small_error_is_found_too(export, tmp_path, monkeypatch):
    def change(bias):
        bias += 2e-2

    spoil(monkeypatch, change)
    with pytest.raises(VerificationError, match="logits differ by"):
        export()
    assert not (tmp_path / "out").exists()


def test_int8_that_costs_too_much_fails_and_leaves_its_report(
    export, images, tmp_path, monkeypatch
):
    from mindcv_ghost.export.quantisation import LayerCost, QuantisationError
    from mindcv_ghost.run import quantisation

    def quantise(*args, **kwargs):
        row = LayerCost("head/Gemm", "head.weight", "classifier", 20480, 3.2, False)
        raise QuantisationError("int8 costs 2.8 percentage points, and 1.0 are allowed.", [row])

    monkeypatch.setattr(quantisation, "quantise", quantise)
    with pytest.raises(VerificationError, match="2.8 percentage points, and 1.0 are allowed$"):
        export("--int8", images / "val", "--int8_report", tmp_path / "r.csv")
    assert "head/Gemm" in (tmp_path / "r.csv").read_text()
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_message_and_leaves_nothing(export, tmp_path, monkeypatch):
    from mindcv_ghost.run import exported_file

    def full(path, text):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(exported_file, "write_text", full)
    with pytest.raises(UserError, match="can't be written \\(No space left on device\\)"):
        export()
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_network_is_refused(export, tmp_path):
    other = tmp_path / "other.ckpt"
    weights = [ms.Parameter(ms.Tensor(np.ones(3, np.float32)), name="other.weight")]
    save_weights(weights, other)
    with pytest.raises(CheckpointError, match="doesn't fit the network"):
        export("--ckpt_path", other)
    assert not (tmp_path / "out").exists()


def test_triton_and_the_page_get_the_checked_file(export, tmp_path, monkeypatch):
    from mindcv_ghost.export import web

    monkeypatch.setattr(web, "write_web_page", lambda folder, path: pages.append((folder, path)))
    pages: list = []
    export("--triton", tmp_path / "models", "--web", tmp_path / "page")
    served = (tmp_path / "models" / "tiny_export" / "1" / "model.onnx").read_bytes()
    assert served == (tmp_path / "out" / "tiny_export.onnx").read_bytes()
    [(folder, path)] = pages
    assert (folder, path.name) == (tmp_path / "page", "tiny_export.onnx")


def test_report_ends_with_one_json_object(export, capsys):
    summary = export()
    report_export(summary)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == summary


def test_averaged_weights_are_exported_if_asked_for(export, checkpoint, tmp_path):
    parameters = ms.load_checkpoint(str(checkpoint))
    averages = [
        ms.Parameter(ms.Tensor(0 * value.asnumpy() + 0.25), name=f"ema.{name}")
        for name, value in parameters.items()
    ]
    both = tmp_path / "both.ckpt"
    save_weights([*parameters.values(), *averages], both)
    out, image = tmp_path / "out" / "tiny_export.onnx", np.ones((1, 3, SIDE, SIDE), np.float32)
    export("--ckpt_path", both)
    plain = open_runtime(out).logits(image)
    export("--ckpt_path", both, "--use_ema", "true")
    averaged = open_runtime(out)
    assert averaged.description.checkpoint["ema"] is True
    assert np.ptp(averaged.logits(image)) < 1e-3 < np.ptp(plain)  # all rows of the classifier alike


def test_where_mindspore_cannot_run_free_sizes_the_mindir_file_is_for_one_image(
    export, tmp_path, monkeypatch, caplog
):
    from mindcv_ghost.run import export as run_export

    write = run_export.write_mindir

    def refuse_free_sizes(network, path, *, dynamic, **kwargs):
        if dynamic:
            raise UserError("no kernel for free sizes")
        return write(network, path, dynamic=dynamic, **kwargs)

    monkeypatch.setattr(run_export, "write_mindir", refuse_free_sizes)
    with caplog.at_level("WARNING"):
        summary = export("--format", "onnx", "mindir")
    assert "is for one image of one size a call: no kernel for free sizes" in caplog.text
    assert summary["accuracy"]["tiny_export.mindir"] == summary["accuracy"]["tiny_export.onnx"]
    assert open_runtime(tmp_path / "out" / "tiny_export.mindir").input_shape == (1, 3, SIDE, SIDE)


def test_a_file_that_cannot_be_run_is_one_message(export, tmp_path, monkeypatch):
    from mindcv_ghost.inference import onnx_runtime

    def fail(self, batch):
        raise RuntimeError("no kernel\nand many lines")

    monkeypatch.setattr(onnx_runtime.OnnxRuntime, "logits", fail)
    with pytest.raises(VerificationError, match="tiny_export.onnx can't be run on .*: no kernel$"):
        export()
    assert not (tmp_path / "out").exists()
