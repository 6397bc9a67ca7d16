"""The loop of a training and of an evaluation, and everything that a training step does.

In come networks, losses, optimizers' settings and batches; out go trained parameters, accuracies
and the files that ``storage`` writes. Nothing here reads a recipe or knows how data are loaded.

Start with ``step`` (one training step as a MindSpore cell), then ``epoch`` and ``trainer`` (the
loop around it), and ``evaluator``. ``collectives`` connects the ranks. ``graphs`` keeps compiled
graphs between processes.
"""
