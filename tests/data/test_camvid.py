"""CamVid: a miniature of its layout, and the real files where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.data import build_dataset

REAL = Path(__file__).parents[3] / "shared/data/camvid"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("val", 1)):
        lines = []
        for i in range(count):
            for folder, array in (
                (split, np.full((4, 6, 3), 50 * i, np.uint8)),
                (f"{split}annot", np.resize(np.arange(12, dtype=np.uint8), (4, 6))),
            ):
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
            lines.append(f"/SegNet/CamVid/{split}/{i}.png /SegNet/CamVid/{split}annot/{i}.png")
        (tmp_path / f"{split}.txt").write_text("\n".join(reversed(lines)) + "\n\n")
    return tmp_path


def test_foreign_folders_of_the_lists_are_ignored(root: Path) -> None:
    train = build_dataset("camvid", "train", root)
    assert [train.path(i) for i in range(3)] == [str(root / f"train/{i}.png") for i in (2, 1, 0)]
    assert len(build_dataset("camvid", "val", root)) == 1
    assert int(train[0].image[0, 0, 0]) == 100
    expected = np.resize([*range(11), 255], (4, 6))  # void is ignored
    np.testing.assert_array_equal(train[0].mask, expected)


def test_label_map() -> None:
    from semseg.data.camvid import LABELS

    assert LABELS.names[:3] == ("sky", "building", "pole")
    assert LABELS.num_classes == 11
    assert LABELS.colors[3].tolist() == [128, 64, 128]
    assert LABELS.labels[-1].raw_id == 11


def test_test_split_where_there_is_one(root: Path) -> None:
    with pytest.raises(FileError, match=r"folder .*test does not exist; wanted train\.txt"):
        build_dataset("camvid", "test", root)
    for name in ("", "annot"):
        (root / f"val{name}").rename(root / f"test{name}")
    (root / "val.txt").rename(root / "test.txt")
    assert build_dataset("camvid", "test", root)[0].size == (4, 6)


def test_missing_files_are_named(root: Path) -> None:
    (root / "trainannot/1.png").unlink()
    with pytest.raises(FileError, match=r"dataset camvid: .*trainannot.1\.png does not exist; wa"):
        build_dataset("camvid", "train", root)
    (root / "train.txt").write_text("\n")
    with pytest.raises(InputError, match=r"train\.txt is empty; it must list the images"):
        build_dataset("camvid", "train", root)
    (root / "train.txt").unlink()
    with pytest.raises(
        FileError, match=r"train\.txt does not exist; wanted .* get it: https://github"
    ):
        build_dataset("camvid", "train", root)
    with pytest.raises(FileError, match=r"folder .*none.train does not exist; wanted train"):
        build_dataset("camvid", "train", root / "none")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real files are not at {REAL}")
def test_real_files() -> None:
    train, val = (build_dataset("camvid", split, REAL) for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101)
    seen: set[int] = set()
    for index in (0, 100, 366):
        sample = train[index]
        assert sample.size == (360, 480)
        assert tuple(sample.image.shape) == (3, 360, 480)
        seen.update(sample.mask.unique().tolist())
    assert seen <= {*range(11), 255}
    assert {0, 1, 3, 5, 255} <= seen
    assert train.fingerprint() != val.fingerprint()
