"""From a dataset to batches whose order and content depend on nothing but seed and epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from semseg.core.checks import InputError
from semseg.core.clouds import Clouds
from semseg.core.preprocess import Preprocessing
from semseg.data.base import Sample, SegmentationDataset
from semseg.data.clouds import pack
from semseg.data.prepared import Prepared, Reading, SampleError, Transform, WatchedLoader, derive
from semseg.data.transforms.mix import Mix


@dataclass(slots=True)
class Batch:
    """What a network is trained on.

    Args:
        images: ``(N, C, H, W)`` float32, normalised; or point clouds.
        masks: ``(N, H, W)`` int64 train ids and the ignore id; ``(1, 1, N)`` of clouds' points.
        paths: file of each image.
    """

    images: Tensor | Clouds
    masks: Tensor
    paths: list[str]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.images.to(device, non_blocking=non_blocking),
            self.masks.to(device, non_blocking=non_blocking),
            self.paths,
        )

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; called by the loader before GPU transfers."""
        return Batch(self.images.pin_memory(), self.masks.pin_memory(), self.paths)

    def __len__(self) -> int:
        """Return N."""
        return len(self.paths)


def make_loader(
    dataset: SegmentationDataset,
    *,
    transform: Transform | None,
    preprocessing: Preprocessing,
    batch_size: int,
    seed: int,
    epoch: int = 0,
    start: int = 0,
    shuffle: bool,
    workers: int,
    drop_last: bool,
    mix: Mix | None = None,
    order: list[int] | None = None,
) -> DataLoader[Batch]:
    """Return the loader of one epoch.

    The order is a function of ``(seed, epoch)`` and the random draws for a sample of ``(seed,
    epoch, index)``: neither the number of workers nor the batch size nor ``start`` changes what a
    sample looks like, and the generators of this process are left as they were.

    Args:
        dataset: where samples come from.
        transform: augmentation of image and mask, or ``None``.
        preprocessing: normalisation of the network.
        batch_size: N.
        seed: of the run.
        epoch: counted from 0.
        start: samples of this epoch that were consumed before; they are skipped.
        shuffle: whether the order is random.
        workers: processes that read and transform; 0 does it in this one.
        drop_last: whether a last batch with fewer than N samples is left out.
        mix: puts parts of samples into others, after the transform.
        order: positions of this epoch's samples, in place of each once.

    Raises:
        InputError: a number out of range, or a preprocessing for other channels.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if workers < 0:
        raise InputError(f"workers must be 0 or more, got {workers}")
    if not 0 <= start <= len(dataset):
        raise InputError(f"start must be 0 … {len(dataset)} (samples of an epoch), got {start}")
    if dataset.channels != (wanted := len(preprocessing.mean)):
        raise InputError(
            f"the dataset has {dataset.channels} channels, the preprocessing takes {wanted}; set "
            "the dataset's channels or the network's in_channels"
        )
    if order is None:
        order = epoch_order(len(dataset), seed, epoch) if shuffle else list(range(len(dataset)))
    return WatchedLoader(
        Prepared(dataset, transform, mix, seed, epoch, Reading(workers)),
        batch_size=batch_size,
        sampler=order[start:],
        num_workers=workers,
        collate_fn=(
            _Pack(preprocessing, thin=transform is None)
            if dataset.holds == "clouds"
            else _Collate(preprocessing)
        ),
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        # the loader draws a seed for its workers; not from the generator of this process
        generator=torch.Generator().manual_seed(derive(seed, epoch, "workers")),
    )


def epoch_order(length: int, seed: int, epoch: int) -> list[int]:
    """Return the permutation of one epoch."""
    return torch.randperm(length, generator=order_generator(seed, epoch)).tolist()


def order_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the generator that decides the order of one epoch."""
    return torch.Generator().manual_seed(derive(seed, epoch, "order"))


class _Collate:
    """Makes a batch; masks stay in their small type until here."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, samples: list[Sample]) -> Batch:
        first = samples[0]
        for sample in samples:
            if sample.mask.shape != first.mask.shape:
                raise SampleError(
                    f"a batch needs images of one size, but {first.path} is "
                    f"{_size(first)} and {sample.path} is {_size(sample)} (height x width); "
                    "set augment.crop or augment.resize, or batch_size 1"
                )
        height, width = first.mask.shape
        images = _room((len(samples), len(first.image), height, width), torch.float32)
        masks = _room((len(samples), height, width), torch.int64)
        for sample, image, mask in zip(samples, images, masks, strict=True):
            self.preprocessing(sample.image.as_subclass(Tensor), out=image)
            mask.copy_(sample.mask.as_subclass(Tensor))
        return Batch(images, masks, [sample.path for sample in samples])


class _Pack:
    """Makes a batch of point clouds."""

    def __init__(self, preprocessing: Preprocessing, *, thin: bool) -> None:
        self.preprocessing = preprocessing
        self.thin = thin

    def __call__(self, samples: list[Sample]) -> Batch:
        clouds, masks = pack(samples, self.preprocessing, thin=self.thin)
        return Batch(clouds, masks, [sample.path for sample in samples])


def _room(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return memory for a batch; in a worker such as the main process reads without a copy."""
    room = torch.empty(0, dtype=dtype)
    if get_worker_info() is None:
        return room.new_empty(shape)
    # torch's own default_collate does the same
    storage = torch.UntypedStorage._new_shared(  # type: ignore[no-untyped-call]
        math.prod(shape) * dtype.itemsize
    )
    return room.set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]


def _size(sample: Sample) -> str:
    return " x ".join(map(str, sample.mask.shape))
