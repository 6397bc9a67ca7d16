"""From a trained network to files that run elsewhere.

In: a network with its weights (a cell). Out: .onnx and .mindir files. The way to ONNX:
MindSpore writes the network's graph (``mindir.py`` reads it), a table translates its primitives
(``primitives/``), and ``optimisation.py`` folds what is constant. Start with ``onnx_file.py``.
"""
