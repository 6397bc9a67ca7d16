"""MindIR, MindSpore's own format, with usual permissions and the sizes that may vary.

``mindspore.export`` writes files that only their owner can read (mode 0400), and declares the batch
that it was called with. MindSpore itself runs such a file at any batch, MindSpore Lite doesn't
(MindSpore 2.8, ``train/serialization.py``).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_ghost.errors import UserError, first_line
from mindcv_ghost.inference.opening import open_runtime
from mindcv_ghost.layers.accelerated import refuse_accelerated

__all__ = ["write_mindir"]


def write_mindir(
    network: nn.Cell,
    path: Path,
    *,
    image_size: tuple[int, int] = (224, 224),
    in_channels: int = 3,
    dynamic: Collection[str] = ("batch",),
) -> list[Path]:
    """Write a network's graph and weights.

    Args:
        network: in evaluation mode.
        path: ends in ``.mindir``; nobody else reads it yet.
        image_size: height and width.
        in_channels: of the images.
        dynamic: "batch" and "size" if the number of images and their size may vary.

    Returns:
        What was written. Weights of more than a gigabyte are files of their own, in a folder; the
        graph's name then ends in ``_graph.mindir``. It is the first of the list.

    Raises:
        UserError: if MindSpore can't export the network or run the file, with its reason.
        OSError: if the disk rejects the data.
    """
    refuse_accelerated(network, "export")
    batch = None if "batch" in dynamic else 1
    sides = (None, None) if "size" in dynamic else image_size
    image = ms.Tensor(shape=[batch, in_channels, *sides], dtype=ms.float32)
    folder = path.parent / f"{path.stem}_variables"
    try:
        ms.export(network, image, file_name=str(path), file_format="MINDIR")
        written = [path]
        if folder.is_dir():
            written = [path.with_name(f"{path.stem}_graph.mindir"), folder]
        for file in (written[0], *folder.rglob("*")):
            os.chmod(file, 0o644)
        # Some layers can be written for free sizes, but not run: nn.Upsample of GhostNetV2 (2.8).
        open_runtime(written[0]).logits(np.zeros((1, in_channels, *image_size), np.float32))
    except OSError:
        raise
    except Exception as error:  # whatever MindSpore's compiler raises
        raise UserError(_refusal(error, dynamic)) from error
    return written


def _refusal(error: Exception, dynamic: Collection[str]) -> str:
    reason = first_line(error.__cause__ or error)[:120]  # the cause is MindSpore's own
    hint = ""
    if dynamic:
        fewer = "batch" if "size" in dynamic else "none"
        hint = f". Perhaps its shapes have to be fixed: --dynamic {fewer}"
    return f"MindSpore can't export this network to MindIR: {reason}{hint}"
