"""Compare a network in PyTorch and in MindSpore with the same random weights."""

from __future__ import annotations

import re

import mindcv
import mindspore as ms
import numpy as np
from mindspore import Tensor

import mindcv_ghost  # noqa: F401
from mindcv_ghost.convert import to_mindspore, torch_names


def randomise(torch, model, seed: int = 0) -> None:
    """Give BN random statistics, scales and offsets; leave the other weights."""
    random = np.random.RandomState(seed)
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.copy_(torch.from_numpy(random.normal(0, 0.1, tensor.shape)))
        elif name.endswith("running_var"):
            tensor.copy_(torch.from_numpy(random.uniform(0.5, 1.5, tensor.shape)))
        elif tensor.ndim == 1 and name.endswith("weight"):
            tensor.copy_(torch.from_numpy(random.uniform(0.7, 1.3, tensor.shape)))
        elif tensor.ndim == 1 and name.endswith("bias"):
            tensor.copy_(torch.from_numpy(random.normal(0, 0.1, tensor.shape)))


def arrays_of(model) -> dict[str, np.ndarray]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def twin(name: str, torch_model, num_classes: int, **options):
    """Create the MindSpore network of that name with the PyTorch network's weights."""
    network = mindcv.create_model(name, num_classes=num_classes, **options)
    load(network, name, torch_model)
    return network


def load(network, name: str, torch_model) -> None:
    arrays, _ = to_mindspore(arrays_of(torch_model), network, name)
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(arrays[parameter.name]))


def features(name: str, torch_model, num_classes: int, images: np.ndarray, **options):
    """Compute the features of every stage of the MindSpore network."""
    whole = twin(name, torch_model, num_classes, **options)
    network = mindcv.create_model(name, num_classes=num_classes, features_only=True, **options)
    values = {p.name: p for p in whole.get_parameters()}
    for parameter in network.get_parameters():
        # MindCV's extractor renames the cells that it flattens: blocks_0 for blocks.0.
        parameter.set_data(values[re.sub(r"^blocks_(\d+)", r"blocks.\1", parameter.name)])
    return [stage.asnumpy() for stage in network.set_train(False)(Tensor(images))]


def assert_close(got: np.ndarray, expected: np.ndarray, relative: float, what: str) -> None:
    """Assert agreement within ``relative`` times the largest number."""
    assert got.shape == expected.shape, what
    largest = np.abs(expected).max()
    difference = np.abs(got - expected).max()
    assert difference <= relative * largest, f"{what}: difference {difference}, largest {largest}"


def assert_same_gradients(torch, name, torch_model, network, images, labels, train: bool) -> None:
    """Assert the same loss, gradients of every parameter, and in training BN's new statistics.

    PyTorch computes in float64, so all rounding errors are MindSpore's.
    """
    torch_model.double().train(train)
    network.set_train(train)
    torch_model.zero_grad()
    loss = torch.nn.functional.cross_entropy(
        torch_model(torch.from_numpy(images).double()), torch.from_numpy(labels)
    )
    loss.backward()
    expected = {n: p.grad.numpy() for n, p in torch_model.named_parameters()}
    parameters = network.trainable_params()
    names = torch_names(name, [p.name for p in network.get_parameters()])

    def forward(x, y):
        return ms.ops.cross_entropy(network(x), y)

    value, gradients = ms.value_and_grad(forward, None, parameters)(
        Tensor(images), Tensor(labels.astype(np.int32))
    )
    np.testing.assert_allclose(float(value.asnumpy()), loss.item(), rtol=1e-4)
    assert len(parameters) == len(expected)
    # A gradient that is zero in exact arithmetic (a following BN removes the parameter's effect) is
    # rounding noise of the other gradients' size.
    typical = np.median([np.abs(array).max() for array in expected.values()])
    for parameter, gradient in zip(parameters, gradients):
        wanted = expected[names[parameter.name]]
        difference = np.abs(gradient.asnumpy() - wanted).max()
        scale = max(np.abs(wanted).max(), 0.5 * typical)
        assert difference <= 1e-3 * scale, (
            f"{parameter.name}: difference {difference}, scale {scale}"
        )
    if train:
        state = arrays_of(torch_model)
        for parameter in network.get_parameters():
            if parameter.name.endswith(("moving_mean", "moving_variance")):
                wanted = state[names[parameter.name]]
                np.testing.assert_allclose(
                    parameter.asnumpy(), wanted, rtol=1e-4, atol=1e-5, err_msg=parameter.name
                )


def smooth(monkeypatch, torch) -> None:
    """Replace ReLU by SiLU in both frameworks.

    ReLU's gradient jumps at zero: if one of a million inputs lies within rounding of zero, the two
    networks can take different sides. With ReLU, gradients of ghost_resnet50 in float32 and float64
    differed by up to a third.
    """
    from mindspore import nn, ops

    functional = torch.nn.functional
    monkeypatch.setattr(functional, "relu", lambda x, inplace=False: functional.silu(x))
    monkeypatch.setattr(nn.ReLU, "construct", lambda self, x: ops.silu(x))
