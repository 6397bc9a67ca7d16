"""Which images there are: sets of labelled images, read one by one.

In: a data set's name, folder and split. Out: a ``Source`` that gives encoded bytes or pixels, and a
label, for an index. Start with ``sources.py`` (``Source``, ``open_source``). ``image_folder.py``
lists class folders, ``image_file.py`` checks a file before a decoder sees it, ``arrays.py`` opens
CIFAR, MNIST and Fashion-MNIST (``array_sets.py`` says what they are, ``array_files.py`` reads their
files), ``digits.py`` writes scikit-learn's digits, ``download.py`` and ``unpack.py`` fetch archives
safely. Nothing here imports MindSpore.
"""
