"""The same numbers as PyTorch: logits, features, gradients and BN statistics.

The reference is timm's network, or, if timm has none, a PyTorch version written from the paper.
Weights, BN scales and statistics are random with a fixed seed and are converted by
``mindcv_ghost.convert``.
"""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

from mindcv_ghost.surgery import deploy
from tests.helpers.needs_torch import torch_and_timm
from tests.parity.compare import (
    assert_close,
    assert_same_gradients,
    features,
    load,
    randomise,
    smooth,
    twin,
)

pytestmark = pytest.mark.parity

CLASSES = 7
TIMM = [f"ghostnet_{w}" for w in ("050", "100", "130")]
TIMM += [f"ghostnetv2_{w}" for w in ("100", "130", "160")]
TIMM += [f"ghostnetv3_{w}" for w in ("050", "100", "130", "160")]
TIMM += [f"repghostnet_{w}" for w in ("050", "058", "080", "100", "111", "130", "150", "200")]
WRITTEN = {
    "ghost_resnet50": "GhostResNet50",
    "ghost_resnet20_cifar": "GhostResNet20Cifar",
    "ghost_vgg16_cifar": "GhostVGG16",
    "g_ghost_regnetx_002": "GGhostRegNetX002",
}
REPARAMETERISED = [name for name in TIMM if name.startswith(("ghostnetv3", "repghost"))]
# One width of each family; the others have the same blocks.
GRADIENTS = ["ghostnet_050", "ghostnetv2_100", "ghostnetv3_050", "repghostnet_050", *WRITTEN]


def pytorch(name: str):
    """Return PyTorch and its network without dropout, whose masks differ between frameworks."""
    torch, timm = torch_and_timm()
    torch.manual_seed(0)
    if name in WRITTEN:
        from tests.parity import ghost_torch

        model = getattr(ghost_torch, WRITTEN[name])(num_classes=CLASSES)
    else:
        model = timm.create_model(name, num_classes=CLASSES, drop_rate=0.0)
    randomise(torch, model)
    return torch, model.eval()


def images(side: int, count: int = 2) -> np.ndarray:
    return np.random.RandomState(1).standard_normal((count, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("side", [96, 75])
@pytest.mark.parametrize("name", [*TIMM, *WRITTEN])
def test_logits_equal_pytorchs(name, side):
    torch, model = pytorch(name)
    network = twin(name, model, CLASSES, drop_rate=0.0).set_train(False)
    with torch.no_grad():
        expected = model(torch.from_numpy(images(side))).numpy()
    assert_close(network(Tensor(images(side))).asnumpy(), expected, 1e-4, name)


@pytest.mark.parametrize("name", [n for n in [*TIMM, *WRITTEN] if not n.startswith("ghostnet_")])
def test_features_of_every_stage_equal_pytorchs(name):
    torch, model = pytorch(name)
    x = torch.from_numpy(images(64))
    with torch.no_grad():
        if name in WRITTEN:
            expected = model.features(x)
        else:
            expected = model.forward_intermediates(x, intermediates_only=True)
    got = features(name, model, CLASSES, images(64), drop_rate=0.0)
    assert len(got) == len(expected)
    for stage, (ours, theirs) in enumerate(zip(got, expected)):
        assert_close(ours, theirs.numpy(), 1e-4, f"{name}, stage {stage}")


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_and_statistics_equal_pytorchs(name, train, monkeypatch):
    torch, model = pytorch(name)
    smooth(monkeypatch, torch)
    network = twin(name, model, CLASSES, drop_rate=0.0)
    labels = np.array([1, 4, 0, 2, 6, 5, 3, 1], np.int64)
    assert_same_gradients(torch, name, model, network, images(64, 8), labels, train)


@pytest.mark.parametrize("name", REPARAMETERISED)
def test_deploy_form_equals_timms(name):
    torch, model = pytorch(name)
    from timm.utils.model import reparameterize_model

    network = twin(name, model, CLASSES, drop_rate=0.0).set_train(False)
    deployed = deploy(network)
    merged = reparameterize_model(model)
    x = images(64)
    with torch.no_grad():
        expected = merged(torch.from_numpy(x)).numpy()
    got = deployed(Tensor(x)).asnumpy()
    assert_close(got, expected, 1e-4, name)
    assert_close(got, network(Tensor(x)).asnumpy(), 1e-5, "training form")
    # And timm's own re-parameterised weights load into a network built in deploy form.
    loaded = twin(name, merged, CLASSES, drop_rate=0.0, deploy=True).set_train(False)
    assert_close(loaded(Tensor(x)).asnumpy(), expected, 1e-4, "timm's weights")


def test_a_file_written_by_pytorch_converts_and_loads(tmp_path):
    from mindcv_ghost.convert.__main__ import main
    from mindcv_ghost.storage.checkpoint import load_weights

    torch, model = pytorch("ghost_resnet50")
    torch.save({"state_dict": {f"module.{n}": t for n, t in model.state_dict().items()}},
               tmp_path / "reference.pth")  # fmt: skip
    arguments = [str(tmp_path / "reference.pth"), str(tmp_path / "out.ckpt")]
    assert main([*arguments, "--model", "ghost_resnet50"]) == 0
    network = twin("ghost_resnet50", model, CLASSES)
    expected = {p.name: p.asnumpy() for p in network.get_parameters()}
    import mindcv

    fresh = mindcv.create_model("ghost_resnet50", num_classes=CLASSES)
    load_weights(fresh, tmp_path / "out.ckpt")
    for parameter in fresh.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), expected[parameter.name])
    # And back, bit for bit.
    back = [str(tmp_path / "out.ckpt"), str(tmp_path / "back.pth"), "--model", "ghost_resnet50"]
    assert main(back) == 0
    again = torch.load(tmp_path / "back.pth", weights_only=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again[name], tensor), name


def test_names_are_exactly_timms():
    for name in TIMM:
        _, model = pytorch(name)
        network = twin(name, model, CLASSES, drop_rate=0.0)  # strict: raises otherwise
        load(network, name, model)
