"""Network in, network and report out: changes of structure that keep or approximate a function."""

from mindcv_ghost.surgery.deploy import deploy, has_deploy_form
from mindcv_ghost.surgery.ghostify import ghostify
from mindcv_ghost.surgery.report import GhostifyReport

__all__ = ["GhostifyReport", "deploy", "ghostify", "has_deploy_form"]
