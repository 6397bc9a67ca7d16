"""One pass over a pipeline of MindSpore's, from its seed to the end of its threads."""

from __future__ import annotations

import random
from collections.abc import Iterator

import mindspore.dataset as ds
import numpy as np

from mindcv_ghost.data.pipeline.backend import Batches
from mindcv_ghost.data.pipeline.malloc import reuse_large_blocks
from mindcv_ghost.data.pipeline.sample_stream import SampleStream

__all__ = ["MindSporeBatches", "set_pipeline_seed"]

# Rows (after the batch operation: batches) that each operation may hold ready. MindSpore's default
# of 16 keeps 16 batches of 38 MB (64 images of 224x224) a rank; 2, 4 and 16 were equally fast.
_PREFETCH = 4


class MindSporeBatches(Batches):
    """The batches of one pass over a pipeline.

    Seeds the pipeline when its iterator is made, because MindSpore takes the seed then, not when
    the pipeline is built. Ends the pipeline's threads when the loop is left, early or not. Raises
    the stream's DataError at the batch of the bad image.

    Args:
        dataset: the pipeline, batched.
        stream: what feeds it.
        rows: images in the whole pass.
        batch_rows: images a batch.
        seed: of the random operations.
        skip: batches to leave out at the start.
    """

    def __init__(
        self,
        dataset: ds.Dataset,
        stream: SampleStream,
        *,
        rows: int,
        batch_rows: int,
        seed: int,
        skip: int = 0,
    ) -> None:
        # Skipped batches are made and thrown away: the random numbers of the others depend on the
        # number of draws before them.
        self._dataset, self._stream = dataset.skip(skip) if skip else dataset, stream
        self._rows, self._batch_rows, self._seed = rows - skip * batch_rows, batch_rows, seed

    def __len__(self) -> int:
        return max(0, -(-self._rows // self._batch_rows))

    def _iterate(self, output_numpy: bool) -> Iterator[list]:
        if self._rows <= 0:
            return
        self._stream.error = None
        reuse_large_blocks()
        set_pipeline_seed(self._seed)
        iterator = self._dataset.create_tuple_iterator(num_epochs=1, output_numpy=output_numpy)
        try:
            for start in range(0, self._rows, self._batch_rows):
                batch = next(iterator, None)
                expected = min(self._batch_rows, self._rows - start)
                if batch is None or len(batch[0]) < expected:
                    raise self._stream.error or RuntimeError("the pipeline ended too early")
                yield batch
        finally:
            iterator.stop()


def set_pipeline_seed(seed: int) -> None:
    """Seed the next iterator of MindSpore's, and leave the program's own generators alone."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    ds.config.set_seed(seed)  # also seeds ``random`` and ``numpy.random``
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    ds.config.set_prefetch_size(_PREFETCH)
