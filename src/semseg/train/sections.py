"""The sections of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

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
    sampling: Literal["uniform", "class_uniform", "repeat_rare"] = "uniform"
    """Which images an epoch consists of: each once; the classes in turn, each by an image that
    shows it; or images with rare classes more often, by sqrt(1 / share of images)."""
    folds: int | None = Field(default=None, ge=2)
    """Cut the training split into so many parts and validate on one of them."""
    fold: int = Field(default=0, ge=0)
    """Which part, counted from 0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold {self.fold} of {self.folds or 1}; they are counted from 0")
        return self


class LossConfig(Section):
    """What is minimised."""

    terms: tuple[LossTerm, ...] = (LossTerm(name="cross_entropy"),)
    """Weighted sum of losses, each {name, weight, settings}."""


class OptimizerConfig(Section):
    """How weights move."""

    name: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    """Optimiser. adamw decays weights by themselves, the others as a term of the loss."""
    lr: float = Field(default=1e-3, gt=0)
    """Highest learning rate."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Decay of weights; biases and everything else of one dimension (norms) are never decayed."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd and rmsprop, first beta of adamw and adam."""
    nesterov: bool = False
    """Whether sgd takes Nesterov's form of momentum."""
    head_lr_factor: float = Field(default=1.0, gt=0)
    """Learning rate of what is not the pretrained trunk, as a multiple of `lr`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs sgd with momentum")
        return self


Epochs = Annotated[float, Field(gt=0)]


class ScheduleConfig(Section):
    """How the learning rate changes, step by step, over all epochs."""

    name: Literal["poly", "cosine", "one_cycle", "constant", "step"] = "poly"
    """Shape. poly falls as (1 - progress)^power, cosine as half a cosine wave; one_cycle rises for
    30 % of the steps from 1/25 and falls to 1/250000, both as half a cosine wave; constant keeps
    the highest rate; step multiplies it by `factor` after every `step_epochs`."""
    power: float = Field(default=0.9, gt=0)
    """Exponent of poly."""
    step_epochs: Epochs | tuple[Epochs, ...] | None = None
    """Epochs between two falls of step, or a list of the epochs after which it falls."""
    factor: float = Field(default=0.1, gt=0, lt=1)
    """What step multiplies by."""
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
        if (self.name == "step") != (self.step_epochs is not None):
            raise ValueError("the schedule step needs step_epochs, and no other has it")
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
    freeze_norm: bool = False
    """Keep batch norms as they are: statistics, scale and shift; for batches of one or two."""
    sync_norm: bool = False
    """Share the statistics of batch norms between processes; needs GPUs."""
    recompute: bool = False
    """Keep only what enters each block and compute its inside again in the backward pass: about a
    third more time for much less memory, and the same weights."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations in a row without a better score; null trains all epochs."""
    overfit_batches: int | None = Field(default=None, ge=1)
    """Train and validate on the images of so many batches: a network that cannot learn them by
    heart has a mistake somewhere."""
    profile: bool = False
    """Write where the time of some steps goes, as profile.txt and profile.json (for
    ui.perfetto.dev)."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Where scores are sent besides metrics.jsonl; one that is not installed is left out."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Stop with the state saved after so many minutes; --resume goes on."""
