"""The base class of the zoo's networks: a feature extractor, pooling and a linear classifier."""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn
from mindspore.common.initializer import HeUniform

__all__ = ["ImageClassifier"]


class ImageClassifier(nn.Cell):
    """Feature maps, global pooling, dropout and a linear classifier, with MindCV's methods.

    A subclass creates its layers in the order of their use and uses each of them once, because
    MindCV's ``features_only=True`` relies on this order. It fills ``feature_info``, sets ``pool``,
    calls :meth:`add_classifier` last, and defines :meth:`forward_features`.

    Args:
        drop_rate: dropout probability before the classifier.

    Inputs:
        Images of shape (N, in_channels, H, W).

    Outputs:
        Logits of shape (N, num_classes).

    Raises:
        ValueError: if ``drop_rate`` lies outside 0 <= p < 1.
    """

    # Attribute of the classifier, and so the first part of its parameters' names.
    classifier_name = "classifier"

    pool: nn.Cell
    num_features: int
    num_classes: int

    def __init__(self, drop_rate: float) -> None:
        super().__init__()
        if not 0.0 <= drop_rate < 1.0:
            raise ValueError(f"drop_rate is {drop_rate}, but it must lie within 0 <= drop_rate < 1")
        self.drop_rate = drop_rate
        # For each stage: channels, stride in image pixels, and path of the cell that computes its
        # feature. A GhostNet's stage has several cells; as in timm, it is the first.
        self.feature_info: list[dict[str, Any]] = []

    def add_classifier(self, num_features: int, num_classes: int) -> None:
        """Add dropout and the classifier.

        Args:
            num_features: inputs of the classifier.
            num_classes: its outputs; 0 for no classifier: the network then returns its inputs.
        """
        self.dropout = nn.Dropout(p=self.drop_rate) if self.drop_rate > 0.0 else None
        self.num_features = num_features
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a newly initialised one, or by none if there are 0 classes."""
        self.num_classes = num_classes
        classifier = self.make_classifier(num_classes) if num_classes else nn.Identity()
        setattr(self, self.classifier_name, classifier)

    def make_classifier(self, num_classes: int) -> nn.Cell:
        """Make a newly initialised classifier; subclasses may choose another layer."""
        return nn.Dense(
            self.num_features,
            num_classes,
            weight_init=HeUniform(mode="fan_in", nonlinearity="sigmoid"),  # as MindCV's ResNet
            bias_init="zeros",
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute feature maps (N, C, H', W') from images (N, in_channels, H, W)."""
        raise NotImplementedError

    def forward_head(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from the maps of :meth:`forward_features`."""
        return self.classify(self.pool(x))

    def classify(self, x: Tensor) -> Tensor:
        """Compute logits (N, num_classes) from features (N, num_features)."""
        if self.dropout is not None:
            x = self.dropout(x)
        return self.classifier(x)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))
