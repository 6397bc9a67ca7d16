"""Write an ONNX or MindIR file of a checkpoint: ``mindcv-ghost export``, from a checkout.

python export.py --config configs/ghostnet/ghost_resnet50_digits.yaml --ckpt_path F --output DIR
"""

from __future__ import annotations

import sys

from mindcv_ghost.commands.export import main
from mindcv_ghost.launch.script import run_script

if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
