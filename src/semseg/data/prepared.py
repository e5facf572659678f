"""Samples as a loader's workers prepare them, and what is said of one that cannot be."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision import tv_tensors

from semseg.core.checks import FileError, InputError, SemsegError
from semseg.data.base import Sample, SegmentationDataset
from semseg.data.transforms.mix import Mix, paste

Transform = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[tv_tensors.Image, tv_tensors.Mask]]
"""Changes image and mask together; any torchvision v2 transform is one. Random draws must come from
torch's own generator, or they do not repeat."""


class SampleError(InputError, FileError):
    """A sample that cannot be used, in one line even when it comes from a worker process."""

    _MARK = "sample cannot be used: "

    def __init__(self, message: str) -> None:
        # torch hands on a worker's error as the text of its whole traceback
        super().__init__(message.rpartition(self._MARK)[2].rstrip())

    def __str__(self) -> str:
        """Return the message behind the mark that survives the way through torch."""
        return self._MARK + str(self.args[0])


class Reading:
    """What each worker process works on, in memory that all of them share.

    Args:
        workers: how many there are.
    """

    def __init__(self, workers: int) -> None:
        self.held = torch.full((workers, 2), -1, dtype=torch.int64)
        self.held.share_memory_()  # type: ignore[no-untyped-call]

    def note(self, index: int) -> None:
        """Write down that this process begins with a sample."""
        if worker := get_worker_info():
            self.held[worker.id, 0], self.held[worker.id, 1] = os.getpid(), index

    def of(self, pids: set[int]) -> list[int]:
        """Return the samples that processes began last."""
        return [index for pid, index in self.held.tolist() if pid in pids]


class Prepared(Dataset[Any]):
    """The dataset with the transform applied, each sample under its own seed."""

    def __init__(
        self,
        source: SegmentationDataset,
        transform: Transform | None,
        mix: Mix | None,
        seed: int,
        epoch: int,
        reading: Reading,
    ) -> None:
        self.source = source
        self.transform = transform
        self.mix = mix
        self.seed = seed
        self.epoch = epoch
        self.reading = reading

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample, transformed.

        Raises:
            SampleError: it cannot be used.
        """
        self.reading.note(index)
        try:
            sample = self.source[index]
            if self.transform is None:
                return sample
            generator = torch.default_generator
            state = generator.get_state()
            try:
                generator.manual_seed(derive(self.seed, self.epoch, index))
                image, mask = self.transform(sample.image, sample.mask)
                region = self.mix.draw() if self.mix else None
                if region is not None:
                    other = self.source[int(torch.randint(len(self.source), ()))]
                    with_part = self.transform(other.image, other.mask)
                    image, mask = paste(region, (image, mask), with_part)
            finally:
                generator.set_state(state)
            return Sample(image, mask, sample.path, sample.size)
        except SemsegError as error:
            raise SampleError(str(error)) from error
        except Exception as error:
            error.add_note(f"while preparing {self.source.path(index)}")
            raise


class WatchedLoader(DataLoader[Any]):
    """A loader that says what a worker was reading when it died."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Return the batches.

        Raises:
            SampleError: a worker process died, for lack of memory as a rule.
        """
        batches = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise self._explained(error) or error from error
            yield batch

    def _explained(self, error: RuntimeError) -> SampleError | None:
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", str(error))
        prepared = self.dataset
        if found is None or not isinstance(prepared, Prepared):
            return None
        pids = {int(pid) for pid in found[1].split(",")}
        paths = [prepared.source.path(index) for index in prepared.reading.of(pids)]
        return SampleError(
            f"a loader process {found[2].rstrip('. ').partition('. ')[0]} while it prepared "
            f"{', '.join(paths) or 'its first sample'}; look at that file and at the memory left, "
            "or set data.workers 0 to see the error itself"
        )


def derive(*parts: int | str) -> int:
    """Return a seed that mixes all parts well; torch's generator uses its low 32 bits."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
