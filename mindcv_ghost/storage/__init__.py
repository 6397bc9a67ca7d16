"""Reads and writes the files of a run.

In come arrays, parameters, settings and paths; out go files that are either whole or absent, and
errors that say what is wrong with a file. Nothing here knows of training steps, and importing it
loads no MindSpore.

Start with ``run_folder`` (the folder of a run and its lock). Its files are MindSpore checkpoints
with weights (``checkpoint``, ``checkpoint_manager``) and the states that an interrupted run resumes
from (``resume_folder``; one such file is ``training_state``). All of them are written through
``atomic_file``.

Weights are read from anybody's files: ``weights_file`` finds out the kind of a file (parsers are
``ckpt_format`` and ``safetensors_format``, which share ``untrusted``), ``weight_names`` which of
its names are the network's, and ``checkpoint`` loads them.
"""
