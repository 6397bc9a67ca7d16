"""int8: exact about what it costs, whole integers in ONNX Runtime, and within max_drop or not."""

from __future__ import annotations

import csv
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from mindcv_ghost.errors import UserError
from mindcv_ghost.export.quantisation import (
    QuantisationError,
    Scheme,
    choose_scheme,
    quantise,
    write_layer_report,
)
from mindcv_ghost.export.quantisation.insertion import prepare
from mindcv_ghost.export.quantisation.layers import weighted_layers
from mindcv_ghost.export.quantisation.sensitivity import logits_of
from tests.export.small_models import CLASSES, ghost_block, images, with_outlier_channel

FULL = Scheme("uint8")


def agreement_with(model):
    """Return a stand-in for top-1 in percent: labels that agree with those of a model."""
    validation = images(512, seed=1)
    labels = logits_of(model, validation).argmax(1)
    return lambda other: 100 * float((logits_of(other, validation).argmax(1) == labels).mean())


@pytest.fixture(scope="module")
def ghost():
    model = ghost_block()
    return quantise(model, images(), agreement_with(model), max_drop=5, scheme=FULL)


def initialisers(model) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def optimised_types(model, tmp_path) -> list[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    data = model.SerializeToString()
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


# The scheme


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "flags, machine, scheme",
    [
        ({"avx2", "avx512f", "avx512_vnni"}, "x86_64", Scheme("uint8")),
        ({"avx2", "avx_vnni"}, "x86_64", Scheme("uint8")),
        ({"avx2", "avx512f"}, "x86_64", Scheme("uint8", reduce_range=True)),
        (set(), "AMD64", Scheme("uint8", reduce_range=True)),
        (set(), "aarch64", Scheme("int8")),
    ],
)
def test_the_scheme_follows_from_the_processor(runtime, flags, machine, scheme):
    assert choose_scheme(runtime, flags, machine) == scheme


def test_an_unknown_runtime_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="onnxruntime, openvino; did you mean 'openvino'"):
        choose_scheme("openvin")


def test_a_reduced_range_keeps_weights_within_seven_bits():
    model = ghost_block()
    for reduce_range, limit in ((False, 127), (True, 64)):
        scheme = Scheme("uint8", reduce_range)
        made = quantise(model, images(), lambda _: 100.0, scheme=scheme).model
        weights = [v for n, v in initialisers(made).items() if n.endswith("weight_quantized")]
        assert len(weights) == 5 and all(value.dtype == np.int8 for value in weights)
        assert max(abs(value.astype(int)).max() for value in weights) == limit


# The model


def test_layers_are_named_by_what_they_are_in_a_ghost_network():
    found = {each.weight: each.kind for each in weighted_layers(prepare(ghost_block()))}
    assert found == {
        "stem.weight": "stem",
        "block.primary.weight": "primary",
        "block.cheap.weight": "cheap",
        "shortcut.weight": "shortcut",
        "classifier.weight": "classifier",
    }


def test_multiply_adds_are_counted_for_one_image():
    found = {each.weight: each.macs for each in weighted_layers(prepare(ghost_block()))}
    assert found["stem.weight"] == 8 * 3 * 9 * 144
    assert found["block.cheap.weight"] == 4 * 9 * 144
    assert found["classifier.weight"] == 8 * CLASSES


def test_an_int8_model_is_valid_standard_onnx_and_takes_any_batch(ghost):
    onnx.checker.check_model(ghost.model, full_check=True)
    assert [each.domain for each in ghost.model.opset_import] == [""]
    for count in (1, 5):
        assert logits_of(ghost.model, [images()[0][:count]]).shape == (count, CLASSES)


def test_every_layer_has_a_scale_for_each_filter(ghost):
    values = initialisers(ghost.model)
    assert values["block.primary.weight_scale"].shape == (4,)
    assert values["block.cheap.weight_scale"].shape == (4,)


def test_metadata_is_kept_and_says_how_the_model_was_quantised(ghost):
    entries = {entry.key: entry.value for entry in ghost.model.metadata_props}
    assert entries["model"] == "small"
    assert json.loads(entries["quantisation"]) == ghost.record()
    assert ghost.record()["scheme"] == "U8S8 per channel"
    assert ghost.record()["excluded"] == []


def test_the_given_model_is_not_changed():
    model = ghost_block()
    before = model.SerializeToString()
    quantise(model, images(), lambda _: 100.0, scheme=FULL)
    assert model.SerializeToString() == before


def test_onnx_runtime_computes_everything_in_integers(ghost, tmp_path):
    kinds = optimised_types(ghost.model, tmp_path)
    assert kinds.count("QLinearConv") == 4
    assert {"QLinearConcat", "QLinearAdd", "QGemm"} <= set(kinds)
    assert not {"Conv", "FusedConv", "Concat", "Add", "Gemm"} & set(kinds)


def test_concatenated_maps_share_a_scale_so_that_bytes_are_only_copied(ghost):
    values = initialisers(ghost.model)
    scales = {values[f"{name}_scale"].item() for name in ("primary_act", "cheap_act", "joined")}
    assert len(scales) == 1


# The search


def test_every_calibration_method_is_tried_and_the_most_accurate_is_taken():
    answers = iter([90.0, 85.0, 89.5, 88.0])  # float32, then the methods
    result = quantise(ghost_block(), images(), lambda _: next(answers), scheme=FULL)
    assert [trial.method for trial in result.trials] == ["MinMax", "Percentile", "Entropy"]
    assert (result.method, result.accuracy_before, result.accuracy_after) == (
        "Percentile",
        90.0,
        89.5,
    )
    assert result.excluded == ()


def test_of_equally_accurate_methods_the_one_with_less_noise_is_taken():
    result = quantise(ghost_block(), images(), lambda _: 100.0, scheme=FULL)
    noise = {trial.method: trial.sqnr_db for trial in result.trials}
    assert noise[result.method] == max(noise.values())
    assert len(set(noise.values())) == 3


def test_a_drop_of_max_drop_is_allowed():
    answers = iter([90.3, 89.3, 80.0, 80.0])
    result = quantise(ghost_block(), images(), lambda _: next(answers), max_drop=1, scheme=FULL)
    assert result.excluded == ()


def test_a_good_network_loses_little(ghost):
    assert ghost.accuracy_before == 100
    assert ghost.accuracy_after >= 95
    assert all(row.sqnr_db > 25 for row in ghost.report)


def test_the_layers_that_cost_most_stay_in_float32(tmp_path):
    model = with_outlier_channel()
    result = quantise(model, images(), agreement_with(model), max_drop=5, scheme=FULL)
    assert max(trial.accuracy for trial in result.trials[:3]) < 80  # without exclusion
    assert set(result.excluded) == {"wide/Conv", "narrow/Conv"}
    assert result.accuracy_after >= 95
    costs = {row.layer: row.sqnr_db for row in result.report}
    assert max(costs["wide/Conv"], costs["narrow/Conv"]) < 15
    assert min(costs["stem/Conv"], costs["last/Conv"], costs["classifier/Gemm"]) > 25
    assert {row.layer for row in result.report if row.excluded} == set(result.excluded)
    # They do so in the file, too, whose other layers are integers.
    kinds = optimised_types(result.model, tmp_path)
    assert kinds.count("QLinearConv") == 2
    assert kinds.count("FusedConv") + kinds.count("Conv") == 2


def test_a_drop_that_no_exclusion_mends_fails_with_the_table_and_the_report():
    answers = iter([90.0, *[20.0] * 100])
    with pytest.raises(QuantisationError) as caught:
        quantise(ghost_block(), images(), lambda _: next(answers), max_drop=1.5, scheme=FULL)
    message = str(caught.value)
    assert "int8 costs 70.00 percentage points of top-1, and max_drop allows 1.5" in message
    assert "float32                     90.00" in message
    assert "int8 Entropy, 5 of 5        20.00   -70.00" in message
    assert len(caught.value.report) == 5


def test_at_most_half_of_the_multiply_adds_stay_in_float32():
    tried = []

    def accuracy(model):
        tried.append(model)
        return 90.0 if len(tried) == 1 else 20.0

    with pytest.raises(QuantisationError) as caught:
        quantise(ghost_block(), images(), accuracy, scheme=FULL)
    rows = caught.value.report
    left = sum(row.macs for row in rows if row.excluded)
    assert 0 < left <= sum(row.macs for row in rows) / 2
    assert "stem/Conv" not in {row.layer for row in rows if row.excluded}  # most of them


# The report


def test_the_report_lists_the_costliest_layer_first(ghost, tmp_path):
    write_layer_report(tmp_path / "layers.csv", ghost.report)
    write_layer_report(tmp_path / "layers.json", ghost.report)
    with open(tmp_path / "layers.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["layer", "weight", "kind", "macs", "sqnr_db", "excluded"]
    costs = [float(row["sqnr_db"]) for row in rows]
    assert len(rows) == 5 and costs == sorted(costs)
    same = json.loads((tmp_path / "layers.json").read_text(encoding="utf-8"))
    assert [row["layer"] for row in same] == [row["layer"] for row in rows]


def test_the_table_has_float32_and_each_trial(ghost):
    lines = ghost.table().splitlines()
    assert lines[1].split() == ["float32", "100.00"]
    assert [line.split()[1] for line in lines[2:]] == ["MinMax,", "Percentile,", "Entropy,"]


# Bad input


def _half(model):
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return model


@pytest.mark.parametrize(
    "model, calibration, options, message",
    [
        (ghost_block(), [], {}, "needs images to calibrate on, and there are none"),
        (ghost_block(), [np.zeros((2, 3, 8, 8), np.float32)], {}, r"float32 of shape \(2, 3, 8, 8"),
        (ghost_block(), [np.zeros((2, 3, 12, 12), np.uint8)], {}, r"uint8 of shape .*, 3, 12, 12"),
        (ghost_block(), images(), {"max_drop": -1}, "max_drop is -1, but it must be 0 or more"),
        (ghost_block(), images(), {"runtime": "tflite"}, "'tflite' isn't known"),
        (ghost_block(opset=11), images(), {}, "opset 11.* needs opset 13 or newer"),
        (_half(ghost_block()), images(), {}, "one float32 input"),
    ],
)
def test_what_can_not_be_quantised_is_refused_in_one_sentence(model, calibration, options, message):
    with pytest.raises(UserError, match=message):
        quantise(model, calibration, lambda _: 100.0, **options)
