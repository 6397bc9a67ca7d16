"""Measure how much the feature maps of a trained network repeat each other.

    python -m mindcv_ghost.analysis.redundancy resnet50 --ckpt_path resnet50.ckpt --image dog.jpg

This is the Ghost paper's motivation. Han et al. (arXiv 1911.11907) show ResNet-50's maps after its
first residual stage, with three similar pairs (figure 1), and how well a d x d kernel predicts one
map of each pair from the other (table "MSE error v.s. different kernel sizes"). Here every map is
tried as the source of every other one, by least squares with a constant, in any network and layer.

``measure`` has the arithmetic, ``picture`` draws the maps, ``__main__`` is the command. It writes
``maps.png`` (the maps, with the most similar pairs in coloured boxes) and ``errors.csv`` (errors of
these pairs and of all maps, for each kernel size). A "relative" error is the mean squared error
divided by the variance of the predicted map: 0 is a perfect copy, 1 is no better than a constant.
"""
