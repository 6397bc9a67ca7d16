"""MindCV's transforms, made repeatable.

In: an ``Augment`` (the settings), the kind of set and the network's input channels. Out: lists of
operations for MindSpore's ``map``, among them ``SeededOp`` objects: random operations in Python
that take a seed for each image. Start with ``factory.py`` (``train_transforms``,
``eval_transforms``). ``augmentations.py`` has AutoAugment and its relatives, random erasing, mixup
and cutmix; ``seeded.py`` is how their random numbers become repeatable.

A new operation should be a ``SeededOp``: both backends call those. With any other operation the
native loader leaves the images to MindSpore's pipeline.
"""
