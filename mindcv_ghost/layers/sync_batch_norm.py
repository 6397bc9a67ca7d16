"""Batch normalisation over the global batch of all ranks, on every device.

MindSpore's own ``nn.SyncBatchNorm`` is for Ascend only; this one consists of ordinary operators.
"""

from __future__ import annotations

from mindspore import Parameter, Tensor, nn, ops
from mindspore import dtype as mstype

from mindcv_ghost.layers.accelerated import refuse_accelerated
from mindcv_ghost.layers.replacing import replace_cells

__all__ = ["SyncBatchNorm2d", "convert_sync_batch_norm"]

_PARAMETERS = ("gamma", "beta", "moving_mean", "moving_variance")


class SyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with batch statistics of the global batch in training.

    It is made from an existing layer and uses the same parameter objects with the same names, so
    checkpoints and optimizers see no difference. It is still an ``nn.BatchNorm2d``, because mixed
    precision looks for that class. It needs a cluster (``mindspore.communication.init``).

    The gradients are exactly those of one batch norm over the global batch. The gradient of
    AllReduce sums the gradients of all ranks, so each rank computes its share of the gradient of
    the sum of all ranks' losses. Their mean over ranks, as in data-parallel training, is the
    gradient of the mean loss.

    Args:
        batch_norm: the layer to replace.

    Inputs:
        Tensor of shape (N, C, H, W); N may differ between ranks.

    Outputs:
        Tensor of shape (N, C, H, W), in the type that came in (float32 under ``to_float``).
    """

    def __init__(self, batch_norm: nn.BatchNorm2d) -> None:
        super().__init__(batch_norm.num_features, eps=batch_norm.eps)
        self.momentum = batch_norm.momentum  # the share of the new batch: 1 - the argument
        for name in _PARAMETERS:
            _take_over_parameter(self, name, getattr(batch_norm, name))
        self.set_train(batch_norm.training)
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)

    def add_flags(self, **flags: bool) -> nn.Cell:
        """Set flags as for any cell, but stay in float32 under mixed precision.

        The ordinary batch norm keeps its statistics in float32 inside the operator. Here they would
        be summed in half precision, and in graph mode running statistics would never be written
        (2.8.0).
        """
        if flags.get("fp16") or flags.get("bf16"):
            flags.update(fp16=False, bf16=False, fp32=True)
        return super().add_flags(**flags)

    def construct(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().construct(x)
        channels = self.num_features
        shift = ops.stop_gradient(ops.cast(self.moving_mean, mstype.float32))
        # Sums of squares lose digits if the mean is large compared with the deviation. So subtract
        # the running mean first, which is the same on all ranks and close to the batch's mean. One
        # AllReduce carries all three sums, as float32: on the CPU it takes no integers.
        centred = ops.cast(x, mstype.float32) - shift.reshape(1, channels, 1, 1)
        count = ops.fill(mstype.float32, (1,), x.shape[0] * x.shape[2] * x.shape[3])
        sums = (centred.sum(axis=(0, 2, 3)), ops.square(centred).sum(axis=(0, 2, 3)), count)
        total = self.all_reduce(ops.concat(sums))
        count = ops.stop_gradient(total[2 * channels :])
        mean = total[:channels] / count
        # Rounding can make the variance of a constant channel slightly negative.
        variance = ops.relu(total[channels : 2 * channels] / count - ops.square(mean))

        scale = ops.cast(self.gamma, mstype.float32) * ops.rsqrt(variance + self.eps)
        offset = ops.cast(self.beta, mstype.float32) - mean * scale
        y = centred * scale.reshape(1, channels, 1, 1) + offset.reshape(1, channels, 1, 1)
        y = ops.cast(y, x.dtype)
        return ops.depend(y, self._track(mean + shift, variance, count))

    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Update the running statistics with the global batch's mean and unbiased variance."""
        unbiased = variance * (count / ops.maximum(count - 1.0, ops.ones_like(count)))
        return (
            self._updated(self.moving_mean, mean),
            self._updated(self.moving_variance, unbiased),
        )

    def _updated(self, running: Parameter, batch: Tensor) -> Tensor:
        step = ops.stop_gradient(ops.cast(batch, running.dtype) - running) * self.momentum
        return ops.assign_add(running, step)


def convert_sync_batch_norm(network: nn.Cell, size: int) -> nn.Cell:
    """Replace every ``nn.BatchNorm2d`` of a network by a :class:`SyncBatchNorm2d`.

    For any network, before mixed precision wraps its layers.

    Args:
        network: changed in place.
        size: number of ranks; with 1 nothing changes.

    Returns:
        The network (a new layer, if the network is itself a batch norm).

    Raises:
        ValueError: if a layer can't be synchronised: another subclass of ``nn.BatchNorm2d``, an
            ``nn.BatchNorm1d``, ``use_batch_statistics`` set, or NHWC.
        UserError: if the network is accelerated.
    """
    if size == 1 or isinstance(network, SyncBatchNorm2d):
        return network
    refuse_accelerated(network, "convert_sync_batch_norm")
    if _is_convertible(network, "the network"):
        return SyncBatchNorm2d(network)
    cells = list(network.cells_and_names())
    convertible = [cell for path, cell in cells if _is_convertible(cell, path)]
    replace_cells(network, {id(cell): SyncBatchNorm2d(cell) for cell in convertible})
    return network


def _is_convertible(cell: nn.Cell, path: str) -> bool:
    """Whether to replace a layer; a batch norm that can't be replaced is an error."""
    if not isinstance(cell, (nn.BatchNorm1d, nn.BatchNorm2d)) or isinstance(cell, SyncBatchNorm2d):
        return False
    if (
        type(cell) is not nn.BatchNorm2d
        or cell.use_batch_statistics is not None
        or cell.format != "NCHW"
    ):
        raise ValueError(
            f"{path} is a {type(cell).__name__} (use_batch_statistics={cell.use_batch_statistics}, "
            f"data_format={cell.format}); only a plain nn.BatchNorm2d (None, NCHW) can be "
            f"synchronised over ranks"
        )
    return True


def _take_over_parameter(cell: nn.Cell, name: str, parameter: Parameter) -> None:
    # Not by setattr, which would rename the parameter.
    cell._params[name] = parameter
