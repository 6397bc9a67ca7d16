"""The zoo: a family a file. Importing this package registers every model in it with MindCV."""

from mindcv_ghost.models import ghost_resnet

__all__ = ["ghost_resnet"]
