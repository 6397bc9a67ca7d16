"""Small programs, one per function. Most violate a rule of the device; the others are legal."""

from __future__ import annotations

import os
import sys

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import nn, ops

DEVICE = ms.get_context("device_target")


class Double(nn.Cell):
    def construct(self, x):
        return x * 2


def set_up() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device(DEVICE, 0)


def data(count: int, last: int = 4) -> ds.Dataset:
    def batches():
        for number in range(count):
            yield (np.full((last if number == count - 1 else 4, 3), number, np.float32),)

    class Source:
        def __len__(self):
            return count

        def __iter__(self):
            return batches()

    return ds.GeneratorDataset(
        Source(), ["x"], num_parallel_workers=1, python_multiprocessing=False
    )


def helper(count: int, **more) -> ms.DatasetHelper:
    set_up()
    return ms.DatasetHelper(data(count, **more), dataset_sink_mode=True, sink_size=1, epoch_num=1)


def run(helper: ms.DatasetHelper, steps: int, network: nn.Cell | None = None) -> None:
    network = network or Double()
    for number in range(steps):
        out = ms.connect_network_with_dataset(network, helper)()
        assert out.asnumpy()[0, 0] == 2 * number


def violates_no_rule() -> None:
    queue = helper(200, last=2)
    run(queue, 200)
    queue.stop_send()
    queue.release()


def sets_a_device_that_does_not_exist() -> None:
    ms.set_device(DEVICE, 8)


def sets_two_devices() -> None:
    ms.set_device(DEVICE, 1)
    ms.set_device(DEVICE)


def sets_another_kind_of_device() -> None:
    ms.set_device({"Ascend": "GPU", "GPU": "Ascend"}[DEVICE])


def computes_before_set_device() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    Double()(ms.Tensor([1.0]))


def inits_before_set_device() -> None:
    ms.communication.init()


def inits_after_computing() -> None:
    set_up()
    Double()(ms.Tensor([1.0]))
    ms.communication.init()


def inits_after_creating_a_tensor() -> None:
    set_up()
    ms.Tensor([1.0])
    ms.communication.init()


def inits_with_a_rank_table() -> None:
    set_up()
    os.environ["RANK_TABLE_FILE"] = "/tmp/of_another_job.json"
    ms.communication.init()


def runs_a_host_operator() -> None:
    set_up()

    class Host(nn.Cell):
        def __init__(self):
            super().__init__()
            self.operator = ops.Custom(lambda x: x, lambda x: x, lambda x: x, func_type="pyfunc")

        def construct(self, x):
            return self.operator(x)

    Host()(ms.Tensor([1.0]))


def connects_only_once() -> None:
    network = ms.connect_network_with_dataset(Double(), helper(200))
    for _ in range(200):
        network()


def passes_inputs_to_a_connected_network() -> None:
    ms.connect_network_with_dataset(Double(), helper(200))(ms.Tensor([1.0]))


def runs_a_graph_with_another_shape() -> None:
    queue, network = helper(3, last=2), Double()
    connected = ms.connect_network_with_dataset(network, queue)
    for _ in range(3):
        connected()


def fetches_after_the_last_batch() -> None:
    run(helper(5), 6)


def fetches_from_a_released_queue() -> None:
    queue = helper(200)
    network = ms.connect_network_with_dataset(Double(), queue)
    queue.stop_send()
    queue.release()
    network()


def uses_sink_mode_on_the_cpu() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.DatasetHelper(data(3), dataset_sink_mode=True, sink_size=1)


def overflow_register():
    from fake_device.register import OverflowRegister
    from fake_device.settings import Settings

    return OverflowRegister(Settings.read(DEVICE, os.environ))


def prints_all_finite() -> None:
    set_up()

    class AllFinite(nn.Cell):
        def construct(self, x, y):
            return ms.amp.all_finite((x, y))

    all_finite, good, bad = AllFinite(), ms.Tensor([1.0, 2.0]), ms.Tensor([1.0, float("inf")])
    print(all_finite(good, good))
    print(all_finite(good, bad))
    overflow_register().raise_flag()
    print(all_finite(good, good))
    print(all_finite(good, good))


def prints_gradients() -> None:
    set_up()
    weight = ms.Parameter(ms.Tensor([1.0, 1.0, 1.0]), name="w")

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def construct(self, x):
            return (self.weight * x).sum()

    class Step(nn.Cell):
        def __init__(self):
            super().__init__()
            self.gradient = ops.value_and_grad(Loss(), None, weights=ms.ParameterTuple([weight]))

        def construct(self, x):
            return self.gradient(x)

    register = overflow_register()
    _, gradients = Step()(ms.Tensor([float("inf"), float("nan"), 2.0]))
    print(*(float(value) for value in gradients[0].asnumpy()), register.is_raised)


globals()[sys.argv[1]]()
