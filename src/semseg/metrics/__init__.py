"""Scores of predictions, exact and mergeable."""

from semseg.metrics.base import METRICS, Metric, build_metrics, list_metrics
from semseg.metrics.boundary import BFScore, BoundaryIoU
from semseg.metrics.calibration import CalibrationError
from semseg.metrics.confusion import Absent, ConfusionMatrix, Scores
from semseg.metrics.energy import energy_distance
from semseg.metrics.panoptic import PanopticQuality
from semseg.metrics.parity import parity
from semseg.metrics.per_image import Interval, PerImage, bootstrap
from semseg.metrics.trimap import Trimap

__all__ = [
    "METRICS",
    "Absent",
    "BFScore",
    "BoundaryIoU",
    "CalibrationError",
    "ConfusionMatrix",
    "Interval",
    "Metric",
    "PanopticQuality",
    "PerImage",
    "Scores",
    "Trimap",
    "bootstrap",
    "build_metrics",
    "energy_distance",
    "list_metrics",
    "parity",
]
