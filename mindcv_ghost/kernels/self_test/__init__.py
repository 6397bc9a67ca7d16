"""The self-test: what a library of operators has to pass before it is used.

Every operator is compared with a plain formula in float64. Gradients are compared with differences
of the formula; those of a convolution, which is linear, with the forward pass. It runs in a process
of its own (``__main__``), because a library built for another processor may crash the process, and
loads numpy but not MindSpore. Start reading at ``checks``.
"""
