"""The facts that a network registers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from semseg.core.preprocess import IMAGENET, Preprocessing

if TYPE_CHECKING:
    from semseg.models.base import ModelConfig, SegmentationModel


@dataclass(frozen=True, slots=True)
class Published:
    """A result as its source states it."""

    dataset: str
    miou: float
    source: str
    """Where the number stands: paper and table, or the authors' README."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the list of networks: what was registered, and the facts the tests check."""

    name: str
    cls: type[SegmentationModel]
    config: ModelConfig
    """The paper's own setting."""
    title: str
    paper: str
    """arXiv id (``"arXiv:1411.4038"``), or venue and DOI where there is none."""
    year: int
    idea: str
    """What is new in it, in one sentence."""
    num_params: int
    """Trainable parameters at ``config``, from a source outside this project."""
    repository: str | None = None
    """The authors' code."""
    paper_size: tuple[int, int] = (512, 512)
    """Height and width at which the paper states its cost or trains; of clouds, 1 and the number of
    points."""
    published: tuple[Published, ...] = ()
    preprocessing: Preprocessing = IMAGENET
    verified: str = "reading"
    """How the network was compared: ``"reference output"``, ``"arithmetic"`` or ``"reading"``."""
    small: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a tiny network of the same structure, for tests."""
    encoder_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Settings that replace those of ``config`` when a trunk is chosen with ``encoder``."""
    xfail: Mapping[str, str] = field(default_factory=dict)
    """Contract tests this network must fail, with the reason."""

    @property
    def family(self) -> str:
        """Folder below ``models/`` that holds the network's file."""
        return self.cls.__module__.split(".")[2]

    @property
    def takes(self) -> str:
        """What a batch consists of: ``"images"`` or ``"clouds"``."""
        return self.cls.takes
