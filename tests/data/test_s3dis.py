"""S3DIS on a miniature of its layout."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from semseg.core.checks import FileError, InputError
from semseg.data import build_dataset, dataset_entry
from semseg.data.s3dis import LABELS
from tests.data.cloud_miniatures import OBJECTS, points, s3dis


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return s3dis(tmp_path)


def test_rooms_and_classes(root: Path) -> None:
    train, val = (build_dataset("s3dis", split, root) for split in ("train", "val"))
    assert (len(train), len(val)) == (5, 2)
    assert [Path(val.path(i)).name for i in range(2)] == ["hallway_6", "office_1"]
    assert (train.channels, train.voxel, train.holds) == (3, 0.04, "clouds")
    sample = val[1]
    assert sample.image.shape == (6, 1, 18)
    # files by name: ceiling_1, chair_1, chair_12, clutter_2, stairs_1, table_1
    assert sample.mask[0].tolist() == [0] * 3 + [7] * 6 + [12] * 6 + [8] * 3
    order = [OBJECTS.index(name) for name in sorted(OBJECTS)]
    want = np.concatenate([points(50 + i) for i in order])
    assert torch.equal(torch.as_tensor(sample.image[:, 0].T), torch.from_numpy(want).float())
    assert train.notes[0].startswith("s3dis train has 5 rooms here, officially 204")


def test_another_area_and_repetition(root: Path) -> None:
    val = build_dataset("s3dis", "val", root, area=2)
    assert [val.path(0)] == [str(root / "Area_2/office_1")]
    assert val.notes == ()
    train = build_dataset("s3dis", "train", root, area=2, repeat=3)
    assert len(train) == 18
    assert train.path(7) == train.path(1)
    assert torch.equal(train[7].image, train[1].image)
    assert len(build_dataset("s3dis", "val", root, repeat=3)) == 2
    once = build_dataset("s3dis", "train", root, area=2)
    assert once.fingerprint() != train.fingerprint() != val.fingerprint()


def test_arrays_of_the_authors(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    arrays = tmp_path_factory.mktemp("arrays")
    for split in ("train", "val"):
        dataset = build_dataset("s3dis", split, root)
        for i in range(len(dataset)):
            area, room = Path(dataset.path(i)).parts[-2:]
            rows = np.concatenate([dataset[i].image[:, 0], dataset[i].mask]).T
            np.save(arrays / f"{area}_{room}.npy", rows)
    for split in ("train", "val"):
        texts, read = (build_dataset("s3dis", split, place) for place in (root, arrays))
        assert len(texts) == len(read)
        assert torch.equal(texts[1].image, read[1].image)
        assert torch.equal(texts[1].mask, read[1].mask)
    np.save(arrays / "Area_5_office_1.npy", np.full((4, 7), 13.0))
    with pytest.raises(InputError, match=r"Area_5_office_1\.npy: holds classes besides 0 … 12"):
        build_dataset("s3dis", "val", arrays)[1]
    np.save(arrays / "Area_5_office_1.npy", np.zeros((4, 6)))
    with pytest.raises(FileError, match=re.escape("has shape (4, 6); wanted (N, 7)")):
        build_dataset("s3dis", "val", arrays)[1]


def test_what_is_missing_is_named(root: Path) -> None:
    entry = dataset_entry("s3dis")
    room = root / "Area_3/office_1/Annotations"
    for file in room.iterdir():
        file.unlink()
    with pytest.raises(FileError) as info:
        build_dataset("s3dis", "train", root)
    for part in (f"{room} holds no *.txt", entry.layout, entry.source):
        assert part in str(info.value)
    room.rmdir(), (room.parent / "office_1.txt").unlink(), room.parent.rmdir()
    with pytest.raises(FileError, match="Area_3 holds no rooms"):
        build_dataset("s3dis", "train", root)
    (root / "Area_3/.DS_Store").unlink(), (root / "Area_3").rmdir()
    with pytest.raises(FileError, match=f"folder {re.escape(str(root / 'Area_3'))} does not exist"):
        build_dataset("s3dis", "train", root)
    build_dataset("s3dis", "val", root)


def test_a_damaged_line_is_named(root: Path) -> None:
    file = root / "Area_5/hallway_6/Annotations/ceiling_1.txt"
    file.write_bytes(b"1 2 3 4 5 6\n22.3 6.6 3.0 185\x10187 182 1\n")
    with pytest.raises(FileError) as info:
        build_dataset("s3dis", "val", root)[0]
    assert str(info.value).startswith(f"{file} cannot be read: line 2 is '22.3 6.6 3.0 185\\x10187")
    assert "Area_5/hallway_6" in str(info.value)
    file.write_text("1 2 3 4 5\n")
    with pytest.raises(FileError, match="has 5 numbers in a line; wanted x y z r g b"):
        build_dataset("s3dis", "val", root)[0]


def test_labels() -> None:
    assert LABELS.names[:3] == ("ceiling", "floor", "wall")
    assert (LABELS.num_classes, LABELS.names[12]) == (13, "clutter")
