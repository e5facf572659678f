"""The sections of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from semseg.losses import LossTerm


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelConfig(Section):
    """Which network."""

    name: str
    """Network; `semseg list` names them."""
    pretrained: bool | Path = False
    """Whether the trunk starts from its published weights, or a local file of them."""
    weights: Path | None = None
    """Start from all weights of a semseg .safetensors file; its classes must be the data's."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the network, e.g. {encoder: resnet34}; classes and channels follow the data."""


class DataConfig(Section):
    """Which images."""

    name: str
    """Dataset; docs/data.md lists them."""
    root: Path | None = None
    """Folder of the files, relative to the current folder."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the dataset, e.g. {cache: true}."""
    workers: int = Field(default=2, ge=0)
    """Processes that read and transform images; 0 does it in the training process."""


class LossConfig(Section):
    """What is minimised."""

    terms: tuple[LossTerm, ...] = (LossTerm(name="cross_entropy"),)
    """Weighted sum of losses, each {name, weight, settings}."""


class OptimizerConfig(Section):
    """How weights move."""

    name: Literal["adamw", "sgd"] = "adamw"
    """Optimiser."""
    lr: float = Field(default=1e-3, gt=0)
    """Highest learning rate."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Decay of weights; biases and everything else of one dimension (norms) are never decayed."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd, first beta of adamw."""
    nesterov: bool = False
    """Whether sgd takes Nesterov's form of momentum."""
    head_lr_factor: float = Field(default=1.0, gt=0)
    """Learning rate of what is not the pretrained trunk, as a multiple of `lr`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs sgd with momentum")
        return self


class ScheduleConfig(Section):
    """How the learning rate changes, step by step, over all epochs."""

    name: Literal["poly", "cosine", "one_cycle", "constant"] = "poly"
    """Shape. poly falls as (1 - progress)^power, cosine as half a cosine wave; one_cycle rises for
    30 % of the steps from 1/25 and falls to 1/250000, both as half a cosine wave; constant keeps
    the highest rate."""
    power: float = Field(default=0.9, gt=0)
    """Exponent of poly."""
    warmup_steps: int | None = Field(default=None, ge=0)
    """Steps of linear rise before poly, cosine or constant start."""
    warmup_epochs: float | None = Field(default=None, ge=0)
    """The same in epochs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise ValueError("give warmup_steps or warmup_epochs, not both")
        if self.name == "one_cycle" and (self.warmup_steps or self.warmup_epochs):
            raise ValueError("one_cycle rises by itself; leave the warm-up out")
        return self


class LoopConfig(Section):
    """How long, how much at once, on what."""

    epochs: int = Field(default=100, ge=1)
    """Passes over the training images; they also decide the schedule."""
    batch_size: int = Field(default=8, ge=1)
    """Images per forward pass and process."""
    accumulate: int = Field(default=1, ge=1)
    """Forward passes whose gradients are averaged into one step."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of all gradients together; null does not clip."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of forward and backward pass; fp16 needs a GPU. Validation is always fp32."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the running average of weights that is validated and kept; null keeps the weights
    themselves. The decay rises as (1 + n) / (10 + n) until it reaches this value."""
    val_every: int = Field(default=1, ge=1)
    """Validate after every so many epochs, and after the last."""
    save_every_steps: int | None = Field(default=None, ge=1)
    """Save the training state within an epoch as well; it is always saved after each epoch."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    channels_last: bool = False
    """Memory order N, H, W, C for weights and images; often faster."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Stop with the state saved after so many minutes; --resume goes on."""
