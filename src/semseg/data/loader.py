"""From a dataset to batches whose order and content depend on nothing but seed and epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from semseg.core.checks import FileError, InputError, SemsegError
from semseg.core.preprocess import Preprocessing
from semseg.data.base import Sample, SegmentationDataset

Transform = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[tv_tensors.Image, tv_tensors.Mask]]
"""Changes image and mask together; any torchvision v2 transform is one. Random draws must come from
torch's own generator, or they do not repeat."""


@dataclass(slots=True)
class Batch:
    """What a network is trained on.

    Args:
        images: ``(N, C, H, W)`` float32, normalised.
        masks: ``(N, H, W)`` int64 train ids and the ignore id.
        paths: file of each image.
    """

    images: Tensor
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


class SampleError(InputError, FileError):
    """A sample that cannot be used, in one line even when it comes from a worker process."""

    _MARK = "sample cannot be used: "

    def __init__(self, message: str) -> None:
        # torch hands on a worker's error as the text of its whole traceback
        super().__init__(message.rpartition(self._MARK)[2].rstrip())

    def __str__(self) -> str:
        """Return the message behind the mark that survives the way through torch."""
        return self._MARK + str(self.args[0])


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
    order = epoch_order(len(dataset), seed, epoch) if shuffle else list(range(len(dataset)))
    return DataLoader(
        _Prepared(dataset, transform, seed, epoch),
        batch_size=batch_size,
        sampler=order[start:],
        num_workers=workers,
        collate_fn=_Collate(preprocessing),
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        # the loader draws a seed for its workers; not from the generator of this process
        generator=torch.Generator().manual_seed(_derive(seed, epoch, "workers")),
    )


def epoch_order(length: int, seed: int, epoch: int) -> list[int]:
    """Return the permutation of one epoch."""
    generator = torch.Generator().manual_seed(_derive(seed, epoch, "order"))
    return torch.randperm(length, generator=generator).tolist()


class _Prepared(Dataset[Any]):
    """The dataset with the transform applied, each sample under its own seed."""

    def __init__(
        self, source: SegmentationDataset, transform: Transform | None, seed: int, epoch: int
    ) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        try:
            sample = self.source[index]
            if self.transform is None:
                return sample
            generator = torch.default_generator
            state = generator.get_state()
            try:
                generator.manual_seed(_derive(self.seed, self.epoch, index))
                image, mask = self.transform(sample.image, sample.mask)
            finally:
                generator.set_state(state)
            return Sample(image, mask, sample.path, sample.size)
        except SemsegError as error:
            raise SampleError(str(error)) from error
        except Exception as error:
            error.add_note(f"while preparing {self.source.path(index)}")
            raise


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
        images = torch.stack([sample.image.as_subclass(Tensor) for sample in samples])
        masks = torch.stack([sample.mask.as_subclass(Tensor) for sample in samples])
        return Batch(
            images=self.preprocessing(images),
            masks=masks.to(torch.int64),
            paths=[sample.path for sample in samples],
        )


def _size(sample: Sample) -> str:
    return " x ".join(map(str, sample.mask.shape))


def _derive(*parts: int | str) -> int:
    """Return a seed that mixes all parts well; torch's generator uses its low 32 bits."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
