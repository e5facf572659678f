"""What is minimised: losses by name, and their weighted sum as one criterion."""

from semseg.losses.base import LOSSES, Criterion, LossTerm, build_criterion, list_losses
from semseg.losses.bootstrapped import bootstrapped_cross_entropy
from semseg.losses.border_weights import border_cross_entropy
from semseg.losses.class_weights import ClassCounts, enet, median_frequency
from semseg.losses.cross_entropy import cross_entropy
from semseg.losses.dice import dice
from semseg.losses.ohem import ohem_cross_entropy

__all__ = [
    "LOSSES",
    "ClassCounts",
    "Criterion",
    "LossTerm",
    "bootstrapped_cross_entropy",
    "border_cross_entropy",
    "build_criterion",
    "cross_entropy",
    "dice",
    "enet",
    "list_losses",
    "median_frequency",
    "ohem_cross_entropy",
]
