"""The objects a run consists of, made or brought back before its loop starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from semseg.core.checks import InputError
from semseg.data.doctor.quick import glance
from semseg.data.loader import Batch, make_loader, order_generator
from semseg.data.prepared import Transform
from semseg.data.sampling import SAMPLINGS
from semseg.data.transforms import Mix, build_mix, build_transform
from semseg.data.transforms.points import build_point_transform
from semseg.losses import ClassCounts, Criterion, build_criterion
from semseg.models.base import SegmentationModel
from semseg.train import folder
from semseg.train.checkpoint import Position, TrainingState, has_state
from semseg.train.config import TrainConfig
from semseg.train.network import adapt, recompute, takes_channels_last
from semseg.train.optim import build_average, build_optimizer
from semseg.train.parts import Parts, build_parts, count_classes
from semseg.train.progress import ignore_signals
from semseg.train.trackers import missing


class Objective(nn.Module):
    """Network and criterion as one module from a batch to its loss terms, as DDP needs it."""

    def __init__(self, model: SegmentationModel, criterion: Criterion) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, images: Any, masks: Tensor) -> dict[str, Tensor]:
        """Return the named terms whose sum is trained on."""
        heads = self.model.forward_heads(self.model.pad(images))
        return self.model.loss(heads, masks, self.criterion)


@dataclass(kw_only=True)
class Session:
    """What the loop works with.

    Args:
        config: the recipe.
        accelerator: devices, precision, processes.
        parts: datasets, labels, preprocessing and the network that is trained.
        transform: augmentation.
        objective: network and criterion as the accelerator wraps them.
        optimizer: as the accelerator wraps it.
        average: the weights that are validated and kept.
        state: what is saved and brought back.
        mix: puts parts of samples into others.
        channels_last: whether weights and images are in the memory order N, H, W, C.
        presence: ``(n, K)``: which classes each training image shows, where sampling asks.
        samples_per_step: images of one optimiser step, over all processes.
        steps_per_epoch: optimiser steps; images that do not fill one are left out of that epoch.
    """

    config: TrainConfig
    accelerator: Accelerator
    parts: Parts
    transform: Transform
    objective: Any
    optimizer: Optimizer
    average: AveragedModel
    state: TrainingState
    mix: Mix | None
    presence: Tensor | None
    channels_last: bool
    samples_per_step: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.config.train.epochs * self.steps_per_epoch

    def batches(self, position: Position) -> Iterator[Batch]:
        """Return the rest of an epoch; of several processes, this one's share."""
        seed, epoch = self.config.seed, position.epoch
        order = None
        if self.presence is not None:
            sample = SAMPLINGS[self.config.data.sampling]
            order = sample(self.presence, order_generator(seed, epoch))
        loader = make_loader(
            self.parts.train,
            transform=self.transform,
            preprocessing=self.parts.preprocessing,
            batch_size=self.config.train.batch_size,
            seed=seed,
            epoch=epoch,
            start=position.samples_in_epoch,
            shuffle=True,
            workers=self.config.data.workers,
            drop_last=True,
            mix=self.mix,
            order=order,
        )
        loader.worker_init_fn = ignore_signals
        if self.accelerator.num_processes > 1:
            loader = prepare_data_loader(loader, put_on_device=False, even_batches=False)
        return iter(loader)


def open_session(
    config: TrainConfig, accelerator: Accelerator, say: Callable[[str], None], *, resume: bool
) -> tuple[Session, Position]:
    """Build everything and open the run folder; nothing is written before all of it fits.

    Args:
        config: the recipe.
        accelerator: devices, precision, processes.
        say: prints one line.
        resume: whether to bring back the folder's newest state.

    Raises:
        SemsegError: something in the recipe, the data or the folder does not fit.
    """
    parts = build_parts(config)
    samples_per_step = _samples_per_step(config, accelerator, len(parts.train))
    counts, presence = _class_counts(config, accelerator, parts, say, resume)
    model = adapt(parts.model.to(accelerator.device), config.train, accelerator.device)
    # before channels_last: the average is evaluated in the same memory order as loaded weights
    average = build_average(model, config.train.ema_decay)
    channels_last = _lay_out(model, config, accelerator.device, say)
    if config.train.recompute:
        say(f"{recompute(model)} blocks are computed again in the backward pass")
    criterion = build_criterion(config.loss.terms, parts.labels, counts).to(accelerator.device)
    objective, optimizer = accelerator.prepare(
        Objective(model, criterion), build_optimizer(model, config.optimizer)
    )
    session = Session(
        config=config,
        accelerator=accelerator,
        parts=parts,
        transform=_transform(config, parts),
        objective=objective,
        optimizer=optimizer,
        average=average,
        state=TrainingState(
            model=model,
            optimizer=optimizer,
            scaler=accelerator.scaler,
            average=None if config.train.ema_decay is None else average,
        ),
        mix=build_mix(config.augment, parts.labels),
        presence=presence,
        channels_last=channels_last,
        samples_per_step=samples_per_step,
        steps_per_epoch=len(parts.train) // samples_per_step,
    )
    if accelerator.is_main_process:
        if resume:
            folder.remove_leftovers(config.folder)
        else:
            folder.start_folder(config)
        folder.write_facts(config.folder, parts.train, parts.val, counts)
    accelerator.wait_for_everyone()
    _describe(session, say)
    position = Position()
    if resume and has_state(config.folder):
        position = session.state.load(config.folder, say)
        say(f"going on after step {position.step}")
    return session, position


def _transform(config: TrainConfig, parts: Parts) -> Transform:
    if parts.train.holds == "clouds":
        return build_point_transform(config.augment, parts.train.voxel)
    transform: Transform = build_transform(config.augment, parts.labels, parts.preprocessing.mean)
    return transform


def _lay_out(
    model: SegmentationModel, config: TrainConfig, device: torch.device, say: Callable[[str], None]
) -> bool:
    """Bring weights into the recipe's memory order; return whether that is channels_last."""
    if not config.train.channels_last:
        return False
    if model.takes != "images":
        say(f"channels_last left out: {model.takes} have no such order")
        return False
    if not takes_channels_last(model, config.train, device):
        say("channels_last left out: with bf16 on a CPU, dilated depthwise convolutions err in it")
        return False
    model.to(memory_format=torch.channels_last)
    return True


def _samples_per_step(config: TrainConfig, accelerator: Accelerator, held: int) -> int:
    """Return the images of one step; refuse more than there are."""
    taken: int = config.train.batch_size * config.train.accumulate * accelerator.num_processes
    if held < taken:
        raise InputError(
            f"one step takes {taken} images (batch_size x accumulate x processes), "
            f"{config.data.name} has {held} for training; lower train.batch_size"
        )
    return taken


def _class_counts(
    config: TrainConfig,
    accelerator: Accelerator,
    parts: Parts,
    say: Callable[[str], None],
    resume: bool,
) -> tuple[ClassCounts, Tensor | None]:
    """Return the class counts of the training split, and which images show which classes.

    Counts are the run's own, or made now, once; the second only where sampling asks for it.
    """
    counts = folder.stored_counts(config.folder, parts.train, parts.val) if resume else None
    sampled = config.data.sampling != "uniform"
    presence = None
    if (counts is None or sampled) and accelerator.is_main_process:
        if not resume and parts.train.holds == "images":
            say(glance(parts.train, parts.val))
        say(f"counting the classes of {len(parts.train)} training masks")
        counts, presence = count_classes(parts.train, config.data.workers)
    shared: list[Any] = broadcast_object_list([counts, presence if sampled else None])
    return shared[0], shared[1]


def _describe(session: Session, say: Callable[[str], None]) -> None:
    config, parts, accelerator = session.config, session.parts, session.accelerator
    for note in dict.fromkeys((*parts.train.notes, *parts.val.notes)):
        say(note)
    for line in missing(config.train.trackers):
        say(line)
    parameters = sum(p.numel() for p in parts.model.parameters())
    say(
        f"{config.model.name} with {parameters:,} parameters on {accelerator.device}, "
        f"{config.train.precision}; {len(parts.train)} training and {len(parts.val)} validation "
        f"images; {session.steps} steps of {session.samples_per_step} images; {config.folder}"
    )
