"""From a set of images and its transforms to batches: order, loaders and two backends.

In: a ``Source``, an ``Augment``, the seed and this rank's place. Out: batches of image and label,
the same ones for the same seed and epoch. Start with ``loader.py``: ``TrainLoader`` and
``EvalLoader`` choose a backend (``backend.py``) in their constructors, this package's C++
(``native_backend.py``) or MindSpore's pipeline (``mindspore_backend.py``). ``sharding.py`` decides
which image comes when, and on which rank.
"""
