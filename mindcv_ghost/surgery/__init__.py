"""Change a network's structure while keeping or approximating the function that it computes.

``ghostify`` replaces the convolutions of any network by Ghost modules, in place, with random
weights or with weights fitted to a trained network; it returns the network and a report. ``deploy``
merges the parallel branches of GhostNetV3 and RepGhostNet and returns a new network. Start reading
with ``ghostify``: ``convolutions`` finds what can be replaced, ``fit`` computes the weights (with
``assignment``, ``filter_correction`` and ``bn_statistics``), and ``report`` shows the result.
"""

from mindcv_ghost.surgery.deploy import deploy, has_deploy_form
from mindcv_ghost.surgery.ghostify import ghostify
from mindcv_ghost.surgery.report import GhostifyReport

__all__ = ["GhostifyReport", "deploy", "ghostify", "has_deploy_form"]
