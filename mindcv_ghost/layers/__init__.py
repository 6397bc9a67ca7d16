"""Building blocks for convolutional networks, usable in any MindSpore network.

The cells take and return feature maps (N, C, H, W), unless they say otherwise. Their parameters
have stable names, by which weights are converted. Start reading at ``conv_norm_act``, the unit that
most of them consist of, and ``ghost_module``. Two functions change a whole network in place:
``compute_in_parts`` and ``convert_sync_batch_norm``.
"""

from mindcv_ghost.layers.conv_norm_act import ConvNormAct
from mindcv_ghost.layers.depthwise_in_parts import compute_in_parts
from mindcv_ghost.layers.dfc_attention import DFCAttention
from mindcv_ghost.layers.ghost_classifier import GhostClassifier
from mindcv_ghost.layers.ghost_module import GhostModule, split_channels
from mindcv_ghost.layers.global_avg_pool import GlobalAvgPool
from mindcv_ghost.layers.initializers import kaiming_normal_fan_out
from mindcv_ghost.layers.max_pool import StemMaxPool
from mindcv_ghost.layers.rep_conv import RepConv
from mindcv_ghost.layers.squeeze_excite import SqueezeExcite
from mindcv_ghost.layers.sync_batch_norm import SyncBatchNorm2d, convert_sync_batch_norm

__all__ = [
    "ConvNormAct",
    "DFCAttention",
    "GhostClassifier",
    "GhostModule",
    "GlobalAvgPool",
    "RepConv",
    "SqueezeExcite",
    "StemMaxPool",
    "SyncBatchNorm2d",
    "compute_in_parts",
    "convert_sync_batch_norm",
    "kaiming_normal_fan_out",
    "split_channels",
]
