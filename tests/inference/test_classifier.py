"""Classifier: labels with probabilities, from any kind of image, by several threads."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest
from PIL import Image

import mindcv_ghost
from mindcv_ghost.errors import CheckpointError, DataError
from mindcv_ghost.export.metadata import add_metadata
from mindcv_ghost.inference.classifier import Classifier, Prediction
from mindcv_ghost.inference.description import Preprocessing
from mindcv_ghost.inference.preprocessing import preprocess

from ..helpers.exported import NAMES, SIDE, description, write_embedded, write_means


@pytest.fixture
def means(tmp_path):
    """A classifier whose logits are an image's mean red, green and blue, divided by 64."""
    return Classifier(write_means(tmp_path / "means.onnx", description()))


def plain(red: int, green: int, blue: int, size: tuple[int, int] = (9, 7)) -> np.ndarray:
    return np.full((*size, 3), (red, green, blue), np.uint8)


def softmax(*logits: float) -> np.ndarray:
    values = np.exp(np.array(logits))
    return values / values.sum()


def test_labels_come_with_their_probabilities_the_most_probable_first(means):
    found = means(plain(64, 128, 0))
    assert [(p.label, p.index) for p in found] == [("green", 1), ("red", 0), ("blue", 2)]
    assert np.allclose([p.probability for p in found], softmax(2, 1, 0), atol=1e-6)
    assert means(plain(64, 128, 0), topk=1) == found[:1]
    assert isinstance(found[0], Prediction)


def test_it_is_a_public_name_of_the_package():
    assert mindcv_ghost.Classifier is Classifier
    assert "Classifier" in mindcv_ghost.__all__


def test_a_list_gives_a_list_whatever_it_holds(means, tmp_path):
    pixels = plain(0, 0, 192)
    Image.fromarray(pixels).save(tmp_path / "blue.png")
    kinds = [pixels, tmp_path / "blue.png", str(tmp_path / "blue.png"), Image.fromarray(pixels)]
    kinds.append((tmp_path / "blue.png").read_bytes())
    alone = means(pixels)
    assert alone[0].label == "blue"
    assert means(kinds) == [alone] * 5
    assert means(tuple(kinds)) == [alone] * 5
    assert means(np.stack([pixels, pixels])) == [alone] * 2
    assert means([]) == []


def test_of_equal_logits_the_first_class_comes_first(means):
    assert [p.index for p in means(plain(50, 50, 50))] == [0, 1, 2]


def test_logits_take_what_preprocess_makes(means):
    batch = np.stack([preprocess(plain(64, 0, 0), means.description.preprocessing)] * 2)
    assert np.allclose(means.logits(batch), [[1, 0, 0]] * 2)
    assert means.logits(batch).dtype == np.float32


def test_threads_get_the_results_of_one(means):
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(24)]
    expected = [means(image) for image in images]
    found: list[list] = [[] for _ in range(6)]

    def classify(results: list) -> None:
        results.extend(means(image) for image in images)

    threads = [threading.Thread(target=classify, args=(results,)) for results in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 6


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_a_stream_keeps_the_order_and_goes_on_after_a_bad_image(means, batch_size):
    images = [plain(64, 0, 0), b"bad", plain(0, 64, 0), "/nowhere.png", plain(0, 0, 64)]
    found = list(means.stream(iter(images), topk=1, batch_size=batch_size))
    assert [one[0].label for one in found[::2]] == list(NAMES)
    assert isinstance(found[1], DataError)
    assert "/nowhere.png" in str(found[3])
    assert [type(one) for one in means.stream([b"bad"] * 3)] == [DataError] * 3


def test_a_stream_reads_no_more_than_a_batch_ahead(means):
    taken = []

    def images():
        for k in range(100):
            taken.append(k)
            yield plain(k, 0, 0)

    results = means.stream(images(), batch_size=4)
    next(results)
    assert len(taken) == 8
    results.close()


def test_in_a_list_a_bad_image_is_an_error(means):
    with pytest.raises(DataError, match="nowhere"):
        means([plain(1, 2, 3), "/nowhere.png"])


def test_a_graph_that_does_its_own_preprocessing_gets_images_of_any_size(tmp_path):
    classifier = Classifier(write_embedded(tmp_path / "embedded.onnx"))
    found = classifier([plain(64, 0, 0, (5, 8)), plain(0, 128, 0, (31, 2))])
    assert [one[0].label for one in found] == ["red", "green"]
    assert np.isclose(found[1][0].probability, softmax(0, 2, 0)[1], atol=1e-6)


def test_a_graph_of_a_fixed_batch_is_called_with_whole_ones(tmp_path):
    classifier = Classifier(write_means(tmp_path / "two.onnx", description(), batch=2))
    images = [plain(64, 0, 0), plain(0, 64, 0), plain(0, 0, 64)]
    assert [one[0].label for one in classifier(images)] == list(NAMES)


def test_without_class_names_labels_are_numbers(tmp_path):
    classifier = Classifier(write_means(tmp_path / "a.onnx", description(class_names=())))
    assert classifier(plain(0, 64, 0))[0].label == "1"


@pytest.mark.filterwarnings("ignore:overflow")
def test_logits_that_are_not_finite_are_no_prediction(tmp_path):
    described = description(preprocessing=Preprocessing(SIDE, SIDE, SIDE, std=(1e-45,) * 3))
    classifier = Classifier(write_means(tmp_path / "a.onnx", described))
    with pytest.raises(DataError, match="isn't finite"):
        classifier(plain(255, 0, 0))


def test_the_description_may_lie_beside_a_file_without_one(tmp_path):
    path = write_means(tmp_path / "bare.onnx", None)
    path.with_suffix(".json").write_text(description().to_json())
    assert Classifier(path)(plain(0, 64, 0))[0].label == "green"


def test_the_file_of_another_program_needs_a_description(tmp_path):
    path = write_means(tmp_path / "bare.onnx", None)
    path.with_suffix(".json").write_text('{"somebody": "else\'s"}')
    with pytest.raises(CheckpointError) as error:
        Classifier(path)
    assert "mindcv-ghost export" in str(error.value)
    assert "--config RECIPE" in str(error.value)
    assert Classifier(path, description=description())(plain(0, 64, 0))[0].label == "green"


def test_a_file_that_knows_its_classes_but_not_its_images_takes_these_from_the_caller(tmp_path):
    path = write_means(tmp_path / "a.onnx", description(preprocessing=None))
    with pytest.raises(CheckpointError):
        Classifier(path)
    other = description(class_names=("x", "y", "z"))
    assert Classifier(path, description=other)(plain(0, 64, 0))[0].label == "green"


@pytest.mark.parametrize(
    ("changes", "side", "words"),
    [
        ({}, 8, "takes images of shape (3, 8, 8), but its preprocessing makes (3, 6, 6)"),
        ({"preprocessing": Preprocessing(6, 6, 6, "lanczos")}, 6, "interpolation 'lanczos'"),
        ({"version": 2}, 6, "reads version 1"),
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_is_refused_at_once(changes, side, words, tmp_path):
    path = write_means(tmp_path / "a.onnx", description(**changes), side=side)
    with pytest.raises((CheckpointError, DataError)) as error:
        Classifier(path)
    assert words in str(error.value)


def test_class_names_that_are_too_few_are_refused(tmp_path):
    classifier = Classifier(write_means(tmp_path / "a.onnx", description(class_names=("a", "b"))))
    with pytest.raises(CheckpointError, match="2 class names"):
        classifier(plain(1, 2, 3))


def test_what_is_no_exported_file_is_said(tmp_path):
    (tmp_path / "text.onnx").write_text("no protobuf")
    whole = write_means(tmp_path / "whole.onnx", description()).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.mindir").write_text("no protobuf")
    (tmp_path / "folder.onnx").mkdir()
    cases = {
        "text.onnx": "can't be run by ONNX Runtime",
        "cut.onnx": "can't be run by ONNX Runtime",
        "empty.onnx": "can't be run by ONNX Runtime",
        "text.mindir": "isn't a whole MindIR file",
        "folder.onnx": "is not a file",
        "missing.onnx": "doesn't exist",
        "weights.ckpt": "mindcv-ghost export",
        "weights.pth": "the suffix must be .onnx or .mindir",
    }
    for name, words in cases.items():
        with pytest.raises(CheckpointError) as error:
            Classifier(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))
        assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_a_mindir_file_is_run_by_mindspore(tmp_path):
    import mindspore as ms
    from mindspore import nn, ops

    class Means(nn.Cell):
        def construct(self, image):
            return ops.mean(image, (2, 3))

    example = ms.Tensor(shape=[None, 3, SIDE, SIDE], dtype=ms.float32)
    ms.export(Means(), example, file_name=str(tmp_path / "means"), file_format="MINDIR")
    (tmp_path / "means.json").write_text(description().to_json())
    classifier = Classifier(tmp_path / "means.mindir")
    assert [one[0].label for one in classifier([plain(0, 64, 0), plain(0, 0, 64)])] == [
        "green",
        "blue",
    ]
    found = classifier(plain(64, 128, 0))
    assert np.allclose([p.probability for p in found], softmax(2, 1, 0), atol=1e-6)
    # Its own description comes before that of the JSON, which another export may have written.
    names = ("rot", "grün", "blau")
    add_metadata(tmp_path / "means.mindir", description(class_names=names).to_metadata())
    classifier = Classifier(tmp_path / "means.mindir")
    assert classifier(plain(0, 64, 0))[0].label == "grün"


def test_a_network_that_takes_bytes_gets_no_normalised_pixels(tmp_path):
    model = onnx.load(write_means(tmp_path / "means.onnx", None))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    cast = onnx.helper.make_node("Cast", ["image"], ["floats"], to=onnx.TensorProto.FLOAT)
    model.graph.node[0].input[0] = "floats"
    model.graph.node.insert(0, cast)
    onnx.save(model, tmp_path / "bytes.onnx")
    classifier = Classifier(tmp_path / "bytes.onnx", description=description())
    with pytest.raises(CheckpointError, match="takes bytes, but normalised pixels are"):
        classifier(plain(64, 0, 0))


def test_a_network_that_fails_on_a_batch_is_one_message(tmp_path):
    model = onnx.load(write_means(tmp_path / "means.onnx", description()))
    shape = onnx.numpy_helper.from_array(np.array([1, 3], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node[1].CopyFrom(onnx.helper.make_node("Reshape", ["mean", "shape"], ["logits"]))
    onnx.save(model, tmp_path / "one.onnx")
    classifier = Classifier(tmp_path / "one.onnx")
    assert classifier(plain(64, 0, 0))[0].label == "red"
    with pytest.raises(CheckpointError, match=r"of shape \(2, 3, .*--batch_size 1"):
        classifier([plain(64, 0, 0), plain(0, 64, 0)])
