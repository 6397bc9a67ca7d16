"""What a model says when it is asked for weights that nobody has published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindcv_ghost.errors import CheckpointError

__all__ = ["require_weights"]


def require_weights(name: str, default_cfg: Mapping[str, Any]) -> None:
    """Refuse ``pretrained=True`` for a model without published weights.

    MindCV itself logs a warning there and goes on with random weights.

    Args:
        name: the model.
        default_cfg: its entry in ``default_cfgs``.

    Raises:
        CheckpointError: if the entry has no ``url``.
    """
    if not default_cfg.get("url"):
        raise CheckpointError(
            f"{name} has no published weights, so pretrained=True can't be met. Leave it out to "
            f"start from random weights; train your own with `python train.py --config "
            f"configs/ghostnet/RECIPE.yaml`; or convert a checkpoint you have to this model's "
            f'parameter names and load it with create_model("{name}", checkpoint_path=...) or '
            f"`--ckpt_path ...`."
        )
