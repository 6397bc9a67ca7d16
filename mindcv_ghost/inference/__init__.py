"""From an exported file to labels, without MindSpore.

In: an .onnx file that ``export/`` has written (or a .mindir or .ckpt file, for which MindSpore is
loaded) and pictures. Out: classes with probabilities. ``description.py`` is what travels with an
exported file: preprocessing, class names, accuracy. ``preprocessing.py`` makes a picture the
network's input, pixel for pixel as validation does. Start with ``classifier.py``.

Importing these modules needs NumPy and Pillow alone; ONNX Runtime and MindSpore are imported when
a file of theirs is opened.
"""
