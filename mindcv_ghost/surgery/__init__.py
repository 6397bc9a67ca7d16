"""Network in, network and report out: changes of structure that keep or approximate a function."""

from mindcv_ghost.surgery.deploy import deploy, has_deploy_form

__all__ = ["deploy", "has_deploy_form"]
