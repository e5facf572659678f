"""Scores of predictions, exact and mergeable."""

from semseg.metrics.confusion import Absent, ConfusionMatrix, Scores

__all__ = ["Absent", "ConfusionMatrix", "Scores"]
