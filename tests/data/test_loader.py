"""Batches: order, draws and errors."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision import tv_tensors

from semseg.core.checks import FileError, InputError
from semseg.core.labels import LabelMap
from semseg.core.preprocess import IMAGENET, Preprocessing
from semseg.data.base import Sample, SegmentationDataset
from semseg.data.loader import Batch, make_loader
from semseg.data.transforms import AugmentConfig, build_transform

# Python 3.12 and later warn of fork in a process with threads, which is how torch starts workers
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # few cores
]

LABELS = LabelMap.from_names(["a", "b"], ignore={255: "void"})


class Made(SegmentationDataset):
    """Random pictures; sizes and errors on wish."""

    def __init__(self, length: int = 11, sizes: dict | None = None, broken: int | None = None):
        self.labels = LABELS
        self.channels = 3
        self.split = "train"
        self.length = length
        self.sizes = sizes or {}
        self.broken = broken

    def __len__(self) -> int:
        return self.length

    def path(self, index: int) -> str:
        return f"made/{index}.png"

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise FileError(f"image {self.path(index)} cannot be read: it is cut off")
        size = self.sizes.get(index, (20, 24))
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
        mask = torch.randint(0, 2, size, generator=generator, dtype=torch.uint8)
        mask[0, 0] = 255
        return Sample(tv_tensors.Image(image), tv_tensors.Mask(mask), self.path(index), size)

    def fingerprint(self) -> str:
        return "0" * 64


AUGMENT = build_transform(
    AugmentConfig(crop=(16, 16), scale=(0.5, 2), brightness=0.5, noise=0.1), LABELS, IMAGENET.mean
)


def loader(dataset: SegmentationDataset | None = None, **changes):
    settings = {
        "transform": AUGMENT,
        "preprocessing": IMAGENET,
        "batch_size": 2,
        "seed": 7,
        "shuffle": True,
        "workers": 0,
        "drop_last": False,
    }
    return make_loader(dataset or Made(), **(settings | changes))


def flat(batches: Iterator[Batch]) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Return path, image and mask of every sample, in order."""
    return [
        (path, image, mask)
        for batch in batches
        for path, image, mask in zip(batch.paths, batch.images, batch.masks, strict=True)
    ]


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])
        for a, b in zip(first, second, strict=True)
    )


def test_batches_are_what_networks_take() -> None:
    batches = list(loader(transform=None, batch_size=4, shuffle=False))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    batch = batches[1]
    assert batch.images.dtype == torch.float32
    assert batch.masks.dtype == torch.int64
    assert tuple(batch.images.shape) == (4, 3, 20, 24)
    assert tuple(batch.masks.shape) == (4, 20, 24)
    assert batch.paths == [f"made/{i}.png" for i in (4, 5, 6, 7)]
    assert not isinstance(batch.images, tv_tensors.TVTensor)
    assert not isinstance(batch.masks, tv_tensors.TVTensor)
    sample = Made()[5]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    torch.testing.assert_close(batch.images[1], (sample.image / 255 - mean) / std)
    assert torch.equal(batch.masks[1], sample.mask.long())
    assert [len(b) for b in loader(batch_size=4, drop_last=True)] == [4, 4]


@pytest.mark.parametrize("changes", [{"workers": 1}, {"workers": 3}, {"batch_size": 3}])
def test_samples_do_not_depend_on_workers_or_batches(changes: dict) -> None:
    assert same(flat(loader()), flat(loader(**changes)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3, 4, 11])
def test_an_epoch_can_be_resumed(start: int, workers: int) -> None:
    whole = flat(loader(epoch=2))
    assert same(flat(loader(epoch=2, start=start, workers=workers)), whole[start:])


def test_seed_and_epoch_change_order_and_draws() -> None:
    base = flat(loader())
    assert same(base, flat(loader()))
    for changes in ({"epoch": 1}, {"seed": 8}):
        other = flat(loader(**changes))
        assert sorted(s[0] for s in other) == sorted(s[0] for s in base)
        assert [s[0] for s in other] != [s[0] for s in base]
        by_path = {s[0]: s[1] for s in other}
        assert not any(torch.equal(by_path[s[0]], s[1]) for s in base)


def test_draws_of_a_sample_do_not_depend_on_its_place() -> None:
    in_order = {s[0]: s[1] for s in flat(loader(shuffle=False))}
    assert list(in_order) == [f"made/{i}.png" for i in range(11)]
    assert all(torch.equal(in_order[path], image) for path, image, _ in flat(loader()))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_generator_of_this_process_is_left_alone(workers: int) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    flat(loader(workers=workers))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert same(flat(loader()), flat(loader(workers=workers)))


@pytest.mark.parametrize("workers", [0, 1])
def test_sizes_that_differ(workers: int) -> None:
    dataset = Made(sizes={1: (30, 24)})
    wanted = (
        r"^sample cannot be used: a batch needs images of one size, but made/0\.png is 20 x 24 and "
        r"made/1\.png is 30 x 24 \(height x width\); set augment\.crop or augment\.resize, "
        r"or batch_size 1$"
    )
    plain = {"transform": None, "shuffle": False, "workers": workers}
    with pytest.raises(InputError, match=wanted):
        list(loader(dataset, **plain))
    sizes = [tuple(b.masks.shape[1:]) for b in loader(dataset, batch_size=1, **plain)]
    assert sizes[:3] == [(20, 24), (30, 24), (20, 24)]
    assert len(flat(loader(dataset, workers=workers))) == 11  # the crop makes them equal


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unusable_file_is_named_in_one_line(workers: int) -> None:
    wanted = "sample cannot be used: image made/4.png cannot be read: it is cut off"
    with pytest.raises(FileError) as info:
        list(loader(Made(broken=4), workers=workers))
    assert str(info.value) == wanted


def fail(image, mask):
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_tells_the_file_it_met(workers: int) -> None:
    with pytest.raises(ZeroDivisionError) as info:
        list(loader(transform=fail, shuffle=False, workers=workers))
    told = str(info.value) + "".join(getattr(info.value, "__notes__", []))
    assert "while preparing made/0.png" in told


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be 0 or more, got -1"),
        ({"start": 12}, r"start must be 0 … 11 \(samples of an epoch\), got 12"),
    ],
)
def test_numbers_out_of_range(changes: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        loader(**changes)


def test_channels_that_do_not_fit_the_preprocessing() -> None:
    grey = Preprocessing(mean=(0.5,), std=(0.5,))
    with pytest.raises(InputError, match="dataset has 3 channels, the preprocessing takes 1; set"):
        loader(preprocessing=grey)


def test_the_training_engine_may_rebuild_the_loader() -> None:
    """The engine rebuilds the loader from its parts; order and content must stay."""
    from accelerate.data_loader import prepare_data_loader

    assert same(flat(prepare_data_loader(loader(start=2))), flat(loader(start=2)))


def test_batch_moves_to_a_device() -> None:
    batch = next(iter(loader())).to("meta", non_blocking=True)
    assert batch.images.device.type == batch.masks.device.type == "meta"
    assert len(batch.paths) == len(batch) == 2


def test_real_files_through_the_loader(miniature) -> None:
    from semseg.data import build_dataset

    root = miniature("folder")
    assert isinstance(root, Path)
    dataset = build_dataset("folder", "train", root)
    whole = functools.partial(loader, dataset, transform=None, batch_size=1)
    assert len(flat(whole())) == 3
    file = root / "masks/train/train_1.png"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(FileError, match=r"^sample cannot be used: mask .*train_1\.png cannot be"):
        flat(whole())
