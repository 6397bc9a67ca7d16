"""Measure top-1 and top-5 of a checkpoint: ``mindcv-ghost validate``, from a checkout.

python validate.py --config configs/ghostnet/ghost_resnet50_ascend.yaml --data_dir DIR --ckpt_path F
"""

from __future__ import annotations

import sys

from mindcv_ghost.commands.dispatch import main

if __name__ == "__main__":
    sys.exit(main(["validate", *sys.argv[1:]]))
