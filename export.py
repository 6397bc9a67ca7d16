"""Write an ONNX or MindIR file of a checkpoint: ``mindcv-ghost export``, from a checkout.

python export.py --config configs/ghostnet/ghost_resnet50_digits.yaml --ckpt_path F --output DIR
"""

from __future__ import annotations

import sys

from mindcv_ghost.commands.dispatch import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
