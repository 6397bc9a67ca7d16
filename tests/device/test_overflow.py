"""If one rank overflows, all ranks skip the same update, on every chip."""

from __future__ import annotations

import pytest

from .fake_device.checks import calls, final_states

SCALED = {
    "amp_level": "O2",
    "loss_scale_type": "dynamic",
    "loss_scale": 1024,
    "batch_size": 4,
    "epoch_size": 1,
}
SATURATES = {"FAKE_DEVICE_CHIP": "ascend910"}
CHIPS = {
    "910A": ("Ascend", SATURATES),
    "910B": ("Ascend", {}),
    "910B_saturating": ("Ascend", {"MS_ASCEND_CHECK_OVERFLOW_MODE": "SATURATION_MODE"}),
    "GPU": ("GPU", {}),
}


@pytest.mark.device
def test_all_ranks_skip_an_update_that_overflows_on_one_saturating_device(host, images):
    """Rank 0 has the largest number instead of an infinity; only its register has the overflow."""
    overflows = "0:2"
    options = {**SCALED, **SATURATES}
    done = host.train(
        "Ascend", images, name="run", ranks=2, FAKE_DEVICE_OVERFLOWS=overflows, **options
    )
    first, second = final_states(host.records)
    assert first == second
    assert (first["updates"], first["scale"]) == (5, 512)
    assert "1 updates with overflow, loss scale 512" in done.out + done.err
    registers = [[e["register"] for e in calls(r, "TrainStep")] for r in host.records]
    assert registers == [["CG", "CG", "CRG", "CG", "CG", "CG"], ["CG"] * 6]


@pytest.mark.device
@pytest.mark.parametrize(
    ("chip", "sink"),
    [("910A", "true"), ("910B", "true"), ("910B_saturating", "false"), ("GPU", "false")],
)
def test_ranks_agree_on_each_overflow(host, images, chip, sink):
    device, settings = CHIPS[chip]
    options = {**SCALED, **settings, "dataset_sink_mode": sink, "FAKE_DEVICE_OVERFLOWS": "1:1,0:4"}
    done = host.train(device, images, name="run", ranks=2, **options)
    first, second = final_states(host.records)
    assert first == second
    assert (first["updates"], first["scale"]) == (4, 256)
    assert "2 updates with overflow, loss scale 256" in done.out + done.err


@pytest.mark.device
@pytest.mark.parametrize("chip", ["910A", "910B", "GPU"])
def test_an_overflow_in_the_first_batch_of_a_group_skips_the_group(host, images, chip):
    """Six batches a rank in groups of three; the overflow is in the second group's first."""
    device, settings = CHIPS[chip]
    settings = {**settings, "FAKE_DEVICE_OVERFLOWS": "1:3"}
    done = host.train(
        device, images, name="run", ranks=2, **SCALED, **settings, gradient_accumulation_steps=3
    )
    first, second = final_states(host.records)
    assert first == second
    assert (first["updates"], first["scale"]) == (1, 512)
    assert "1 updates with overflow" in done.out + done.err


@pytest.mark.device
@pytest.mark.parametrize("sink", ["true", "false"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_overflow_during_validation_is_not_counted_for_a_step(host, images, accumulation, sink):
    options = {
        **SCALED,
        **SATURATES,
        "epoch_size": 3,
        "val_while_train": "true",
        "dataset_sink_mode": sink,
        "gradient_accumulation_steps": accumulation,
    }
    updates = {}
    for name, overflows in {"without": "", "with": "1"}.items():
        settings = {"FAKE_DEVICE_VALIDATION_OVERFLOWS": overflows}
        done = host.train("Ascend", images, name=name, **settings, **options)
        assert "updates with overflow" not in done.out + done.err
        updates[name] = final_states(host.records)[0]["updates"]
    raised = [entry["register"] for entry in calls(host.records[0], "Logits")]
    assert "R" in "".join(raised)
    assert updates["without"] == updates["with"] == 36 // accumulation
    assert host.weights("without") == host.weights("with")


@pytest.mark.device
def test_a_fixed_scale_without_skipping_does_not_read_the_register(host, images):
    options = {"amp_level": "O2", "loss_scale_type": "fixed", "loss_scale": 128, **SATURATES}
    done = host.train("Ascend", images, name="run", epoch_size=1, **options)
    assert "Give --drop_overflow_update true" in done.out + done.err
    assert "".join(entry["register"] for entry in calls(host.records[0], "cell")) == ""
    assert final_states(host.records)[0]["updates"] == 6


@pytest.mark.device
@pytest.mark.parametrize("chip", ["910A", "910B", "GPU"])
def test_a_run_that_always_overflows_ends_on_all_ranks(host, images, chip):
    device, settings = CHIPS[chip]
    overflows = ",".join(f"1:{call}" for call in range(6))
    options = {**SCALED, **settings, "loss_scale": 1, "nan_patience": 2}
    done = host.train(
        device, images, name="run", ranks=2, status=2, FAKE_DEVICE_OVERFLOWS=overflows, **options
    )
    assert "2 updates in a row" in done.out + done.err
    assert all(calls(record, "violation") == [] for record in host.records)
