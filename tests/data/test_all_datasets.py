"""Every public dataset on miniatures of its official layouts; the registry says which there are."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from semseg.core.checks import FileError, InputError, SemsegError
from semseg.data import build_dataset, dataset_entry, list_datasets
from semseg.metrics import ConfusionMatrix
from tests.data.forms import FORMS
from tests.data.miniatures import Miniature, pixels

PUBLIC = [name for name in list_datasets() if dataset_entry(name).citation is not None]
forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.id)


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: form.id)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Give each form and the root of its files, which tests must leave as they are."""
    root = tmp_path_factory.mktemp(request.param.name)
    request.param.write(root, request.param.raw)
    return request.param, root


def build(form: Miniature, split: str, root: Path):
    return build_dataset(form.name, split, root, **form.settings)


def test_every_public_dataset_has_a_miniature() -> None:
    images = {name for name in PUBLIC if dataset_entry(name).holds == "images"}
    assert {form.name for form in FORMS} == images


def test_samples(written) -> None:
    form, root = written
    paths: dict[str, set[str]] = {}
    for split, length in form.lengths.items():
        dataset = build(form, split, root)
        assert (dataset.split, len(dataset)) == (split, length)
        seen = set()
        for index in {0, 1, length - 1}:
            sample = dataset[index]
            assert tuple(sample.image.shape) == (dataset.channels, *sample.size)
            assert sample.mask.dtype == torch.uint8
            assert tuple(sample.mask.shape) == sample.size == (5, 8)
            # the first pixel says how far the ids of this image were turned
            turns = [
                np.array_equal(sample.mask, pixels(form.train, turn))
                for turn in range(len(form.raw))
            ]
            assert any(turns)
            seen.add(turns.index(True))
            assert sample.path == dataset.path(index)
        assert len(seen) > 1  # not one mask for all
        paths[split] = {dataset.path(i) for i in range(length)}
        assert len(paths[split]) == length
    shared = paths["train"] & paths["val"]
    assert shared == (paths["val"] if form.settings.get("whole_train") else set())


def test_masks_belong_to_their_images(written) -> None:
    """Images are numbered by their grey, masks by how far their ids are turned."""
    form, root = written
    dataset = build(form, "train", root)
    for index in range(3):
        sample = dataset[index]
        number = round(float(sample.image.float().mean()) / 5)
        np.testing.assert_array_equal(sample.mask, pixels(form.train, number))


def test_label_map(written) -> None:
    form, root = written
    dataset = build(form, "train", root)
    labels = dataset.labels
    assert len(labels.names) == len(labels.colors) == labels.num_classes
    classes = dataset_entry(form.name).classes
    if classes is not None and not {"background", "classes"} & form.settings.keys():
        assert labels.num_classes == classes
    for train, (name, color) in form.names.items():
        assert labels.names[train] == name
        assert tuple(labels.colors[train].tolist()) == color
    mask = np.asarray(dataset[0].mask)
    np.testing.assert_array_equal(labels.encode(labels.decode(mask)), mask)
    assert labels.colorize(mask).shape == (5, 8, 3)
    matrix = ConfusionMatrix(labels.num_classes, labels.ignore_id)
    matrix.update(torch.from_numpy(mask), torch.from_numpy(mask))
    assert matrix.scores().miou == 1


@forms
def test_unknown_ids_are_named_with_their_file(form: Miniature, tmp_path: Path) -> None:
    form.write(tmp_path, form.raw + form.foreign)
    dataset = build(form, "train", tmp_path)
    with pytest.raises(InputError) as info:
        dataset[0]
    text = str(info.value)
    assert text.startswith(f"{dataset.pairs[0][1]}: ")
    assert re.search(r"holds the (ids|segments|colours) ", text), text
    if form.name not in ("camvid", "coco_panoptic"):
        assert all(str(i) in text for i in form.foreign), text


@forms
def test_nothing_there(form: Miniature, tmp_path: Path) -> None:
    with pytest.raises(SemsegError) as info:
        build(form, "train", tmp_path)
    text = str(info.value)
    assert str(tmp_path) in text
    entry = dataset_entry(form.name)
    assert text.startswith(f"dataset {form.name}: ")
    assert entry.layout in text
    assert entry.source in text


@forms
def test_a_missing_mask_is_named(form: Miniature, tmp_path: Path) -> None:
    form.write(tmp_path, form.raw)
    dataset = build(form, "train", tmp_path)
    mask = dataset.pairs[1][1]
    if not mask.is_file():
        pytest.skip("one file holds all masks")
    mask.unlink()
    with pytest.raises(FileError, match=re.escape(f"{mask} does not exist")) as info:
        build(form, "train", tmp_path)
    assert dataset_entry(form.name).source in str(info.value)


def test_counts_are_compared_with_the_official_ones(written) -> None:
    form, root = written
    for split, length in form.lengths.items():
        notes = build(form, split, root).notes
        counted = [note for note in notes if "officially" in note and "images here" in note]
        if form.name == "isbi2012":  # its miniature is complete
            assert counted == []
        else:
            start = f"{form.name} {split} has {length} images here, officially "
            assert counted[0].startswith(start), notes


def test_fingerprint_and_copies_for_workers(written, tmp_path: Path) -> None:
    form, root = written
    moved = tmp_path / "moved"
    moved.symlink_to(root)
    train, val = (build(form, split, root) for split in ("train", "val"))
    assert build(form, "train", moved).fingerprint() == train.fingerprint() != val.fingerprint()
    again = pickle.loads(pickle.dumps(train))
    assert torch.equal(again[1].image, train[1].image)
    assert torch.equal(again[1].mask, train[1].mask)


@pytest.mark.parametrize("name", PUBLIC)
def test_facts_stand_in_the_docstring_too(name: str) -> None:
    entry = dataset_entry(name)
    text = " ".join((inspect.getdoc(inspect.getmodule(entry.build)) or "").split())
    for heading in ("Layout", "Encoding", "Splits", "Licence: ", "Citation: ", "Source: "):
        assert heading in text, heading
    for fact in (entry.licence, entry.citation, entry.source.split(",")[0]):
        assert fact in text
    assert entry.counts.keys() <= set(entry.splits)
    for split in ("train", "val"):
        assert entry.counts[split] > 0
