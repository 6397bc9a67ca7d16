"""The device's data queue, which MindSpore implements in C++ beneath ``DatasetHelper``.

A thread iterates over the data pipeline and sends its batches. A batch goes into the data queue. If
MindSpore has asked for it, data types and shapes go into a second queue of 128, the info queue. The
thread waits while a queue is full (``data_queue_op.cc``: ``SendRowToTdt`` for Ascend;
``SendDataToGPU``, which queues the shapes first; ``kDataInfoQueueCapacity``). A consumer that would
wait forever gets a RuleViolation.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from types import SimpleNamespace

import numpy as np

from . import record
from .rules import violation

__all__ = ["INFO_CAPACITY", "Queue", "Sender", "sender_class", "wrapper_class"]

INFO_CAPACITY = 128
_queues: dict[str, Queue] = {}


class Stopped(Exception):
    """Sending has been stopped."""


class Queue:
    """The data queue and the info queue of one channel.

    Args:
        name: of the channel.
        capacity: of the data queue, in batches.
        with_info: whether data types and shapes are queued as well.
        info_first: whether they are queued before the batch.
    """

    def __init__(self, name: str, capacity: int, with_info: bool, info_first: bool) -> None:
        self.name, self.capacity = name, capacity
        self.with_info, self.info_first = with_info, info_first
        self.sent = self.fetched = 0
        self.failure: BaseException | None = None
        self.released = False
        self._data: deque[list[np.ndarray]] = deque()
        self._info: deque[tuple[list, list]] = deque()
        self._change = threading.Condition()
        self._stopped = False
        self._ended = False
        self._wants_room: tuple[deque, int, str] | None = None  # the queue, its size, its name

    # -- the sender's side ---------------------------------------------------------------------

    def send(self, batch: list[np.ndarray]) -> None:
        """Queue a batch, once there is room. Raises Stopped."""
        info = [array.dtype.type for array in batch], [list(array.shape) for array in batch]
        puts = [(self._data, batch, self.capacity, "data")]
        if self.with_info:
            puts.insert(0 if self.info_first else 1, (self._info, info, INFO_CAPACITY, "info"))
        for place, item, capacity, name in puts:
            with self._change:
                self._wants_room = (place, capacity, name)
                self._change.notify_all()
                while not self._stopped and len(place) >= capacity:
                    self._change.wait()
                self._wants_room = None
                if self._stopped:
                    raise Stopped
                place.append(item)
                self._change.notify_all()
        self.sent += 1

    def end(self, failure: BaseException | None = None) -> None:
        with self._change:
            self.failure = failure
            self._ended = True
            self._change.notify_all()

    # -- the consumer's side -------------------------------------------------------------------

    def fetch(self) -> list[np.ndarray]:
        """Return what ``GetNext`` returns. The device doesn't learn of the sender's failure."""
        with self._change:
            if self.released:
                raise violation("queue is not released", f"queue {self.name} is released")
            while not self._data:
                self._raise_if_forever("GetNext returns", self._data)
                self._change.wait()
            batch = self._data.popleft()
            self.fetched += 1
            self._change.notify_all()
            return batch

    def next_info(self) -> tuple[list, list]:
        """Return data types and shapes of the next batch; raises the error that ended the pipeline.

        The error is raised at once, even if shapes of good batches are waiting: the interrupt is
        checked before the queue (``util/cond_var.cc``; tried with the wheel's pipeline and
        ``GetDataInfo`` on the CPU).
        """
        if not self.with_info:
            raise RuntimeError("[Internal ERROR] DataInfo queue is not created.")
        with self._change:
            while self.failure is not None or not self._info:
                if self.failure is not None:
                    text = "Exception thrown from user defined Python function in dataset."
                    raise RuntimeError(f"{text} {type(self.failure).__name__}: {self.failure}")
                self._raise_if_forever("get_data_info returns", self._info)
                self._change.wait()
            info = self._info.popleft()
            self._change.notify_all()
            return info

    def _raise_if_forever(self, rule: str, wanted: deque) -> None:
        """Raise if nothing will ever be added to ``wanted``."""
        if self._ended:
            sender = "ended"
        elif self._wants_room and len(self._wants_room[0]) >= self._wants_room[1]:
            sender = f"waiting for room in the {self._wants_room[2]} queue"
        else:
            return  # the sender is working
        failure = f" ({type(self.failure).__name__}: {self.failure})" if self.failure else ""
        what = "batch" if wanted is self._data else "shapes of batch"
        number = self.fetched if wanted is self._data else self.sent
        raise violation(rule, f"{what} {number} of a queue whose sender is {sender}{failure}")

    # -- the end -------------------------------------------------------------------------------

    def stop(self) -> None:
        with self._change:
            self._stopped = True
            self._change.notify_all()


class Sender:
    """Replaces ``_ToDevice`` (wheel: dataset/engine/datasets.py:4530).

    Args:
        pipeline: the data set to send.
        queue: receives the batches.
        epochs: passes over the data set; -1 never ends.
    """

    def __init__(self, pipeline, queue: Queue, epochs: int) -> None:
        self.queue = queue
        self._epochs = epochs
        # Not in the thread: MindSpore, too, copies the pipeline while the caller waits.
        self._iterator = pipeline.create_tuple_iterator(
            num_epochs=epochs, output_numpy=True, do_copy=False
        )
        self._thread = threading.Thread(target=self._run, daemon=True, name="fake_device_send")
        # A script that ends with an error leaves the thread running, and MindSpore's pipeline
        # crashes if a thread uses it while the interpreter exits.
        atexit.register(self._end)

    def __deepcopy__(self, memo: dict) -> Sender:
        return self

    def send(self) -> None:
        record.write("send", queue=self.queue.name, epochs=self._epochs)
        self._thread.start()

    def _run(self) -> None:
        failure = None
        try:
            while self._epochs:
                for row in self._iterator:
                    self.queue.send([np.array(column) for column in row])
                self._epochs -= 1
        except Stopped:
            pass
        except BaseException as error:
            # The error stays in this thread. Errors of MindSpore's own operations can't be tested
            # here: its iterator (2.8) crashes when a thread other than the main one reads it.
            failure = error
        self.queue.end(failure)

    def stop_send(self) -> None:
        record.write("stop_send", sent=self.queue.sent, fetched=self.queue.fetched)
        self.queue.stop()

    def continue_send(self) -> None:
        record.write("continue_send")

    def get_data_info(self) -> tuple[list, list]:
        return self.queue.next_info()

    def get_mbuf_queue_size(self) -> int:
        return len(self.queue._data)

    def get_send_info(self) -> list:
        return []

    def get_offload_model(self, columns: list[str]) -> SimpleNamespace:
        return SimpleNamespace(transform_list=[])

    def release(self) -> None:
        self.queue.released = True
        self._end()
        record.write("release", ended=not self._thread.is_alive())

    def _end(self) -> None:
        self.queue.stop()
        if self._thread.ident is not None:
            self._thread.join(30)


def sender_class(capacity: int, device: str) -> type:
    """Return the class that ``TransferDataset.send`` uses instead of ``_ToDevice``."""

    class ToDevice(Sender):
        def __init__(self, dataset, num_epochs: int) -> None:
            queue = Queue(
                dataset.queue_name,
                capacity,
                with_info=dataset._create_data_info_queue,
                info_first=device == "GPU",
            )
            _queues[dataset.queue_name] = queue
            super().__init__(dataset.children[0], queue, num_epochs)

    return ToDevice


def wrapper_class() -> type:
    """Return the class that ``connect_network_with_dataset`` uses instead of ``_DataWrapper``.

    The real cell's graph begins with ``GetNext``. This one's has inputs, which it takes from the
    queue when it is called. Its flags and its compilation are those of the real one.
    """
    from mindspore import Tensor, nn
    from mindspore import dtype as mstype

    class DataWrapper(nn.Cell):
        def __init__(self, network, dataset_types, dataset_shapes, queue_name) -> None:
            super().__init__(auto_prefix=False, flags=network.get_flags())
            self.add_flags(**getattr(network.__class__.construct, "_func_graph_flags", {}))
            self.info = (tuple(dataset_types), tuple(map(tuple, dataset_shapes)))
            self.network = network
            self._get_attr_from_cell(network)
            self.queue_name = queue_name
            record.write("wrap", types=[str(t) for t in dataset_types], shapes=dataset_shapes)

        def construct(self, *outputs):
            return self.network(*outputs)

        def compile(self, *inputs):
            if not inputs:  # called when it is connected; with inputs, from __call__
                inputs = [
                    Tensor(np.zeros(shape, mstype.dtype_to_nptype(kind)))
                    for kind, shape in zip(*self.info)
                ]
            super().compile(*inputs)

        def __call__(self, *inputs):
            if inputs:
                what = f"a connected network is called with {len(inputs)} inputs"
                raise violation("connected networks take no inputs", what)
            queue = _queues[self.queue_name]
            batch = [Tensor(array) for array in queue.fetch()]
            got = tuple(x.dtype for x in batch), tuple(tuple(x.shape) for x in batch)
            if got != self.info:
                what = f"batch {queue.fetched - 1} is {got}, the graph is for {self.info}"
                raise violation("batches fit the graph", what)
            return super().__call__(*batch)

    return DataWrapper
