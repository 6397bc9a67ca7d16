"""The doctor: tries a machine part by part, as training will use it, and says what it finds.

``python -m mindcv_ghost.doctor`` starts it; docs/doctor.md shows its output line by line.

- ``usage.py`` reads the command line, ``starting.py`` starts several processes without a launcher;
- ``findings.py`` is what a check finds, and how it is shown;
- ``examination.py`` runs check after check, ``board.py`` lets the ranks tell each other their
  findings, and ``watch.py`` notices a check that doesn't end;
- ``environment.py``, ``places.py``, ``disks.py`` and ``devices.py`` look at things without
  MindSpore, or from outside;
- ``communication.py``, ``training.py``, ``reference.py`` and ``saving.py`` let MindSpore compute.
"""
