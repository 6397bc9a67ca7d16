"""Published networks: folders that hold weights with everything that is needed to use them.

``mindcv-ghost publish`` writes such a folder, and some come with this package, in ``shipped/``. In
come a name, a folder or a URL; out goes a folder whose checksums have been verified. Nothing here
builds a network, and importing it loads neither MindSpore nor MindCV.

Start with ``finding`` (name, folder or URL to folder). ``card`` is what a folder says about its
network, and ``checksums`` the list of its files' SHA-256.
"""

from mindcv_ghost.weights.card import Card
from mindcv_ghost.weights.finding import Published, find_weights, list_shipped

__all__ = ["Card", "Published", "find_weights", "list_shipped"]
