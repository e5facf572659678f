"""A worker process that dies says what it was reading."""

from __future__ import annotations

import os
import signal

import pytest

from semseg.core.preprocess import IMAGENET
from semseg.data import Sample, build_dataset
from semseg.data.loader import make_loader
from semseg.data.prepared import SampleError
from semseg.data.subset import Subset


class Deadly(Subset):
    """Its fourth sample kills the process that reads it, as the system does out of memory."""

    def __getitem__(self, index: int) -> Sample:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_dead_worker_names_its_file() -> None:
    whole = build_dataset("synthetic", "train", length=6, size=(16, 24))
    loader = make_loader(
        Deadly(whole, range(6)),
        transform=None,
        preprocessing=IMAGENET,
        batch_size=1,
        seed=0,
        shuffle=False,
        workers=2,
        drop_last=False,
    )
    with pytest.raises(SampleError) as caught:
        list(loader)
    message = str(caught.value.args[0])
    assert message.startswith("a loader process ")
    assert f"while it prepared {whole.path(3)};" in message
    assert message.endswith("or set data.workers 0 to see the error itself")
    assert "\n" not in message
