"""Reads and writes the files of a run.

In come arrays, parameters, settings and paths; out go files that are either whole or absent, and
errors that say what is wrong with a file. Nothing here knows of training steps, and importing it
loads no MindSpore.

Start with ``run_folder`` (the folder of a run and its lock). Its files are MindSpore checkpoints
with weights (``checkpoint``, ``checkpoint_manager``; the format's parser is ``ckpt_format``) and
the states that an interrupted run resumes from (``resume_folder``; one such file is
``training_state``). All of them are written through ``atomic_file``.
"""
