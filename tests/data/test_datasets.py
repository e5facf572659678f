"""What every registered dataset promises, and the messages of :func:`build_dataset`."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from torchvision import tv_tensors

from semseg.core.checks import InputError, SettingError, UnknownNameError
from semseg.data import CachedDataset, build_dataset, dataset_entry, list_datasets

SMALL = {
    "synthetic": {"length": 3, "size": (16, 24)},
    "synthetic_rooms": {"length": 3, "points": 512},
}
FORMS = {"images": (torch.uint8, 0), "clouds": (torch.float32, 3)}
"""Type of the numbers, and rows besides the channels: the coordinates."""


def build(name: str, split: str, miniature, **settings):
    return build_dataset(name, split, miniature(name), **SMALL.get(name, {}), **settings)


@pytest.mark.parametrize("name", list_datasets())
def test_contract(name: str, miniature) -> None:
    root = miniature(name)
    settings = SMALL.get(name, {})
    for split in ("train", "val"):
        dataset = build_dataset(name, split, root, **settings)
        assert dataset.split == split
        assert len(dataset) >= 2
        for index in range(min(len(dataset), 3)):
            sample = dataset[index]
            assert isinstance(sample.image, tv_tensors.Image)
            assert isinstance(sample.mask, tv_tensors.Mask)
            dtype, more = FORMS[dataset.holds]
            assert (sample.image.dtype, sample.mask.dtype) == (dtype, torch.uint8)
            # plane by plane, or pixel by pixel as files hold it
            plain = sample.image.as_subclass(torch.Tensor)
            assert plain.is_contiguous() or plain.permute(1, 2, 0).is_contiguous()
            assert tuple(sample.image.shape) == (dataset.channels + more, *sample.size)
            assert tuple(sample.mask.shape) == sample.size
            allowed = {*range(dataset.labels.num_classes), dataset.labels.ignore_id}
            assert set(sample.mask.unique().tolist()) <= allowed
            assert sample.path == dataset.path(index)
            assert torch.equal(sample.image, dataset[index].image)
        again = pickle.loads(pickle.dumps(dataset))  # for loader workers that are not forked
        assert torch.equal(again[1].image, dataset[1].image)
        assert again.fingerprint() == dataset.fingerprint()
        assert re.fullmatch("[0-9a-f]{64}", dataset.fingerprint())
        with pytest.raises(IndexError):
            dataset[len(dataset)]
    train, val = (build_dataset(name, split, root, **settings) for split in ("train", "val"))
    assert train.fingerprint() != val.fingerprint()
    paths = [{dataset.path(i) for i in range(len(dataset))} for dataset in (train, val)]
    assert paths[0].isdisjoint(paths[1])


@pytest.mark.parametrize("name", list_datasets())
def test_facts(name: str, miniature) -> None:
    entry = dataset_entry(name)
    assert entry.name == name
    assert entry.title
    assert entry.licence
    assert entry.source
    assert {"train", "val"} <= set(entry.splits)
    if entry.classes is not None:
        assert build(name, "train", miniature).labels.num_classes == entry.classes
    if entry.layout is not None:
        with pytest.raises(InputError, match=f"dataset {name} needs root, the folder with "):
            build_dataset(name, "train")


@pytest.mark.parametrize("name", list_datasets())
def test_cache_gives_equal_samples(name: str, miniature) -> None:
    root, settings = miniature(name), SMALL.get(name, {})
    plain = build_dataset(name, "train", root, **settings)
    cached = build_dataset(name, "train", root, cache=True, **settings)
    assert isinstance(cached, CachedDataset)
    assert (cached.split, cached.channels, len(cached)) == ("train", plain.channels, len(plain))
    assert cached.labels == plain.labels
    assert cached.fingerprint() == plain.fingerprint()
    for index in (2, 0, 1):
        kept, read = cached[index], plain[index]
        assert torch.equal(kept.image, read.image)
        assert torch.equal(kept.mask, read.mask)
        assert (kept.path, kept.size) == (read.path, read.size)
        kept.image.zero_()
        kept.mask.zero_()
        assert torch.equal(cached[index].image, read.image)
        assert torch.equal(cached[index].mask, read.mask)


def test_cache_reads_each_sample_once(miniature) -> None:
    source = build("folder", "train", miniature)
    reads = []
    read = type(source).__getitem__
    patched = type("Counted", (type(source),), {})
    patched.__getitem__ = lambda self, index: (reads.append(index), read(self, index))[1]
    source.__class__ = patched
    cached = CachedDataset(source)
    for _ in range(2):
        for index in range(3):
            cached[index]
    assert sorted(reads) == [0, 1, 2]


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="unknown dataset 'camvit'; did you mean 'camvid'"):
        build_dataset("camvit", "train")
    with pytest.raises(UnknownNameError, match="unknown split of synthetic 'valid'; did you mean"):
        build_dataset("synthetic", "valid")
    with pytest.raises(SettingError, match="dataset synthetic has no setting 'lenght'; did you me"):
        build_dataset("synthetic", "train", lenght=3)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"length": "many"}, "setting length is 'many'; Input should be a valid integer"),
        ({"size": [8, 64]}, "setting size.0 is 8; Input should be greater than or equal to 16"),
        ({"difficulty": "hrad"}, "setting difficulty is 'hrad'; Input should be 'easy', 'medium'"),
        ({"seed": -1}, "setting seed is -1; Input should be greater than or equal to 0"),
    ],
)
def test_wrong_settings(settings: dict, text: str) -> None:
    with pytest.raises(SettingError, match=f"dataset synthetic: {text}"):
        build_dataset("synthetic", "train", **settings)
