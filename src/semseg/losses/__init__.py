"""What is minimised: losses by name, and their weighted sum as one criterion."""

from semseg.core.criterion import Criterion
from semseg.losses.base import LOSSES, LossTerm, build_criterion, list_losses
from semseg.losses.bootstrapped import bootstrapped_cross_entropy
from semseg.losses.border_weights import border_cross_entropy
from semseg.losses.boundary import boundary, hausdorff
from semseg.losses.class_weights import (
    ClassCounts,
    effective_number,
    enet,
    inverse_frequency,
    median_frequency,
)
from semseg.losses.cross_entropy import cross_entropy
from semseg.losses.dice import dice
from semseg.losses.focal import focal
from semseg.losses.lovasz import lovasz_hinge, lovasz_softmax
from semseg.losses.ohem import ohem_cross_entropy
from semseg.losses.overlap import focal_tversky, jaccard, tversky
from semseg.losses.rmi import rmi

__all__ = [
    "LOSSES",
    "ClassCounts",
    "Criterion",
    "LossTerm",
    "bootstrapped_cross_entropy",
    "border_cross_entropy",
    "boundary",
    "build_criterion",
    "cross_entropy",
    "dice",
    "effective_number",
    "enet",
    "focal",
    "focal_tversky",
    "hausdorff",
    "inverse_frequency",
    "jaccard",
    "list_losses",
    "lovasz_hinge",
    "lovasz_softmax",
    "median_frequency",
    "ohem_cross_entropy",
    "rmi",
    "tversky",
]
