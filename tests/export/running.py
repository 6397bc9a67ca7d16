"""Runs exported models, and compares them with the networks that they are of."""

import mindspore as ms
import numpy as np
import onnxruntime

from mindcv_ghost.export import build_onnx


def run(model, images):
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"image": images})[0]


def random_images(batch=3, channels=3, height=8, width=6, seed=0):
    """Images whose pixels are normally distributed."""
    return np.random.default_rng(seed).normal(size=(batch, channels, height, width)).astype("f")


def assert_same(model, network, *shapes, rtol=2e-5, atol=2e-5):
    """Compare the model with the network for images of some shapes."""
    for seed, shape in enumerate(shapes):
        images = random_images(*shape, seed=seed)
        wanted = network(ms.Tensor(images)).asnumpy()
        given = run(model, images)
        assert given.shape == wanted.shape
        np.testing.assert_allclose(given, wanted, rtol=rtol, atol=atol)


def export_and_compare(network, channels=3, height=8, width=6, **options):
    """Export a network for batches of any size and compare it for one and for three images."""
    network.set_train(False)
    model = build_onnx(network, image_size=(height, width), in_channels=channels, **options)
    assert_same(model, network, (1, channels, height, width), (3, channels, height, width))
    return model


def kinds(model):
    """The nodes' operators, in order."""
    return [node.op_type for node in model.graph.node]
