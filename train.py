"""Train a model of MindCV or mindcv_ghost by a recipe: ``mindcv-ghost train``, from a checkout.

python train.py --config configs/ghostnet/ghost_resnet50_digits.yaml
mpirun -n 8 python train.py --config configs/ghostnet/ghost_resnet50_ascend.yaml --data_dir DIR
"""

from __future__ import annotations

import sys

from mindcv_ghost.commands.dispatch import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
