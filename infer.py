"""Classify pictures by an exported network: ``mindcv-ghost infer``, from a checkout.

python infer.py cat.jpg --model ghost_resnet50.onnx
"""

from __future__ import annotations

import sys

from mindcv_ghost.commands.dispatch import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
