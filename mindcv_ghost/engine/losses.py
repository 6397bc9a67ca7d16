"""Losses that replace MindCV's where those don't compute what they should."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

__all__ = ["JsdLoss"]


class JsdLoss(nn.Cell):
    """AugMix's loss: cross entropy of the clean copy, and the divergence of the three predictions.

    MindCV 0.3's ``JSDCrossEntropy`` calls ``ops.split(logits, 0, 3)``, whose third argument is the
    axis in MindSpore 2.8: "axis 3 is out of bounds for array of dimension 2".

    Args:
        label_smoothing: of the cross entropy.
        reduction: of the cross entropy; the divergence is averaged, as in timm and MindCV.

    Inputs:
        - **logits** - (3 N, classes): of the clean copies, and of two augmented ones. Of a tuple
          the first.
        - **labels** - (3 N,): integers; those of the clean copies count.

    Outputs:
        Tensor, of no dimension.

    Source: Hendrycks et al., "AugMix" (arXiv 1912.02781), section 3; timm's ``JsdCrossEntropy``,
    whose ``alpha`` of 12 is the paper's.
    """

    SPLITS, ALPHA, SMALLEST = 3, 12.0, 1e-7

    def __init__(self, label_smoothing: float, reduction: str) -> None:
        super().__init__()
        self.label_smoothing, self.reduction = label_smoothing, reduction

    def construct(self, logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Compute the loss."""
        if isinstance(logits, tuple):
            logits = logits[0]  # without the auxiliary outputs
        images = logits.shape[0] // self.SPLITS
        loss = ops.cross_entropy(
            logits[:images],
            labels[:images],
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
        logs = ops.log_softmax(logits, axis=1).reshape(self.SPLITS, images, -1)
        shares = ops.exp(logs)
        mixture = ops.log(ops.clip_by_value(shares.mean(0), self.SMALLEST, 1.0))
        divergence = (shares * (logs - mixture)).sum() / (self.SPLITS * images)
        return loss + self.ALPHA * divergence
