"""One pass over a pipeline of MindSpore's, from its seed to the end of its threads."""

from __future__ import annotations

import random
from collections.abc import Iterator

import mindspore as ms
import mindspore.dataset as ds
import numpy as np

from mindcv_ghost.data.pipeline.memory import keep_large_blocks
from mindcv_ghost.data.sets.sources import Source

__all__ = ["Batches", "set_pipeline_seed"]

# Rows (batches after the batch operation) that each operation may hold ready. MindSpore's default
# of 16 keeps 16 batches of 38 MB (64 images of 224x224) a rank; 2, 4 and 16 were equally fast.
_PREFETCH = 4


class Batches:
    """The batches of one pass: iterate over it, once or again for the same batches.

    Sets MindSpore's seed at the right moment (it is taken when the iterator is made, not when the
    pipeline is), ends the pipeline's threads when the loop is left, early or not, and raises the
    source's DataError at the batch that a bad image would have been in.

    Args:
        dataset: the pipeline, batched.
        source: where its images come from.
        rows: images in the whole pass.
        batch_rows: images a batch.
        seed: for what the pipeline draws.
        skip: batches that an earlier process has had.
    """

    def __init__(
        self,
        dataset: ds.Dataset,
        source: Source,
        *,
        rows: int,
        batch_rows: int,
        seed: int,
        skip: int = 0,
    ):
        # Skipped batches are made and thrown away: what the pipeline draws for the others depends
        # on what it drew before.
        self.dataset, self._source = dataset.skip(skip) if skip else dataset, source
        self._rows, self._batch_rows, self._seed = rows - skip * batch_rows, batch_rows, seed

    def __len__(self) -> int:
        return max(0, -(-self._rows // self._batch_rows))

    def __iter__(self) -> Iterator[list[ms.Tensor]]:
        return self.create_tuple_iterator()

    def create_tuple_iterator(
        self, num_epochs: int = 1, output_numpy: bool = False
    ) -> Iterator[list]:
        """As MindSpore's, for one epoch: lists of Tensors, or of arrays."""
        if num_epochs != 1:
            raise ValueError("one epoch at a time: each has an order of its own")
        if self._rows <= 0:
            return
        self._source.failure = None
        keep_large_blocks()
        set_pipeline_seed(self._seed)
        iterator = self.dataset.create_tuple_iterator(num_epochs=1, output_numpy=output_numpy)
        try:
            for start in range(0, self._rows, self._batch_rows):
                batch = next(iterator, None)
                whole = min(self._batch_rows, self._rows - start)
                if batch is None or len(batch[0]) < whole:
                    raise self._source.failure or RuntimeError("the pipeline ended too early")
                yield batch
        finally:
            iterator.stop()


def set_pipeline_seed(seed: int) -> None:
    """Set the seed that MindSpore's next iterator draws from; the program's own numbers go on."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    ds.config.set_seed(seed)  # also seeds ``random`` and ``numpy.random``
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    ds.config.set_prefetch_size(_PREFETCH)
