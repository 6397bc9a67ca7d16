"""This package's C++ from image file to normalised pixels, around libjpeg-turbo.

In: files of a ``FolderSource``, the transforms' settings and a seed for each image. Out: float32
(N, 3, H, W), written into the caller's array. Evaluation gives MindSpore's pixels bit for bit.
Start with ``images.py`` (``ImageDecoder``, which is used from many threads). ``library.py`` builds
the C++ of ``cpp/`` at first use, ``self_test.py`` is the test that a build has to pass, and
``decoded_cache.py`` keeps the decoded images of a small set in memory.
"""
