"""The ``folder`` dataset: every layout and every mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError, SettingError, ranges
from semseg.core.labels import LabelMap
from semseg.data import build_dataset
from semseg.data.folder_files import share_of

CLASSES = "classes:\n  - ground\n  - {name: tree, id: 7}\n  - {name: void, id: 255, ignore: true}\n"


def put(root: Path, image: str, mask: str | None = None, ids: tuple[int, ...] = (0, 7)) -> None:
    """Write an image of 4 x 6 and its mask, which holds ``ids``."""
    file = root / "images" / image
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), 100, np.uint8)).save(file)
    file = root / "masks" / (mask or str(Path(image).with_suffix(".png")))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(ids, np.uint8), (4, 6))).save(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "classes.yaml").write_text(CLASSES)
    return tmp_path


def names(dataset) -> list[str]:
    return [Path(dataset.path(i)).name for i in range(len(dataset))]


def test_split_folders(root: Path) -> None:
    for name in ("train/b.jpg", "train/a.PNG", "train/x/a.webp", "val/c.bmp", "val/d.tiff"):
        put(root, name)
    (root / "images/train/notes.txt").write_text("not an image")
    (root / "images/train/.cache").mkdir()
    (root / "images/train/.cache/a.png").write_text("not an image")
    train, val = (build_dataset("folder", split, root) for split in ("train", "val"))
    assert names(train) == ["a.PNG", "b.jpg", "a.webp"]
    assert names(val) == ["c.bmp", "d.tiff"]
    assert train.notes == ()
    assert train.labels.names == ("ground", "tree")
    sample = train[1]
    assert sample.path == str(root / "images/train/b.jpg")
    assert sample.size == (4, 6)
    np.testing.assert_array_equal(sample.mask, np.resize([0, 1], (4, 6)))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".gif"])
def test_mask_suffixes(root: Path, suffix: str) -> None:
    put(root, "train/a.jpg", f"train/a{suffix}", ids=(7, 255))
    sample = build_dataset("folder", "train", root)[0]
    np.testing.assert_array_equal(sample.mask, np.resize([1, 255], (4, 6)))


def test_lists_of_names(root: Path) -> None:
    for name in ("a.jpg", "b 1.png", "sub/c.png", "v.1.png", "unused.png"):
        put(root, name)
    (root / "train.txt").write_text("# comment\nsub/c\n\nb 1.png\na\n")
    (root / "val.txt").write_text("v.1\n")
    assert names(build_dataset("folder", "train", root)) == ["c.png", "b 1.png", "a.jpg"]
    assert names(build_dataset("folder", "val", root)) == ["v.1.png"]


def test_lists_of_pairs(root: Path) -> None:
    put(root, "a.jpg", "a_ids.png", ids=(7,))
    put(root, "b.jpg", "b_ids.png", ids=(0,))
    (root / "train.txt").write_text("images/a.jpg masks/a_ids.png\nb.jpg\tb_ids.png\n")
    dataset = build_dataset("folder", "train", root)
    assert names(dataset) == ["a.jpg", "b.jpg"]
    assert [int(dataset[i].mask.float().mean()) for i in range(2)] == [1, 0]


def test_list_errors(root: Path) -> None:
    put(root, "a.jpg")
    put(root, "b.jpg")
    (root / "masks/b.png").unlink()
    (root / "train.txt").write_text("nowhere\n")
    with pytest.raises(FileError, match=r"train\.txt names 'nowhere', but .*images has no such im"):
        build_dataset("folder", "train", root)
    (root / "train.txt").write_text("b.jpg\n")
    with pytest.raises(FileError, match=r"train\.txt names 'b\.jpg', but .*masks has no such mask"):
        build_dataset("folder", "train", root)
    (root / "train.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match=r"train\.txt names no images; list one name per line"):
        build_dataset("folder", "train", root)
    with pytest.raises(FileError, match=r"val\.txt does not exist, but the other split has a list"):
        build_dataset("folder", "val", root)


def test_drawn_split(root: Path) -> None:
    for i in range(60):
        put(root, f"{i:03}.png")
    train, val = (build_dataset("folder", split, root) for split in ("train", "val"))
    before = set(names(val))
    assert set(names(train)).isdisjoint(before)
    assert len(train) + len(val) == 60
    assert 5 <= len(val) <= 20
    assert "no train.txt and val.txt, so one image in five, chosen by a hash" in train.notes[0]
    for i in range(60, 80):  # more images leave the others where they are
        put(root, f"{i:03}.png")
    after = set(names(build_dataset("folder", "val", root)))
    assert len(before - after) <= 1  # at most the one with the greatest hash
    assert len({name for name in after - before if name < "060.png"}) == 0


@pytest.mark.parametrize("count", [2, 3, 4])
def test_drawn_split_of_few_images_leaves_none_empty(root: Path, count: int) -> None:
    for trial in range(6):
        sub = root / str(trial)
        for i in range(count):
            put(sub, f"{trial}_{i}.png")
        (sub / "classes.yaml").write_text(CLASSES)
        sizes = [len(build_dataset("folder", split, sub)) for split in ("train", "val")]
        assert min(sizes) >= 1
        assert sum(sizes) == count


def test_drawn_split_leaves_train_one_image(root: Path) -> None:
    drawn = [f"{i}.png" for i in range(60) if share_of(Path(f"{i}.png")) >= 0.8][:3]
    for name in drawn:
        put(root, name)
    assert [len(build_dataset("folder", split, root)) for split in ("train", "val")] == [1, 2]


def test_one_image_cannot_be_split(root: Path) -> None:
    put(root, "a.png")
    with pytest.raises(InputError, match="holds one image, which cannot be split into train and"):
        build_dataset("folder", "train", root)


def test_missing_folders(root: Path) -> None:
    with pytest.raises(FileError, match=r"dataset root .*gone does not exist; the nearest folder"):
        build_dataset("folder", "train", root / "gone")
    with pytest.raises(FileError, match=r"image folder .*images does not exist"):
        build_dataset("folder", "train", root)
    (root / "images").mkdir()
    with pytest.raises(FileError, match=r"mask folder .*masks does not exist"):
        build_dataset("folder", "train", root)
    put(root, "train/a.png")
    with pytest.raises(FileError, match=r"image folder of split 'val' .*val does not exist"):
        build_dataset("folder", "val", root)


def test_unpaired_files(root: Path) -> None:
    put(root, "train/a.png")
    put(root, "train/b.png")
    put(root, "train/c.png")
    (root / "masks/train/b.png").rename(root / "b.png")
    with pytest.raises(FileError, match=r"train.b\.png has no mask; wanted .*masks.train.b with"):
        build_dataset("folder", "train", root)
    (root / "masks/train/c.png").unlink()
    with pytest.raises(FileError, match=r"train.b\.png has no mask \(and 1 more\)"):
        build_dataset("folder", "train", root)
    (root / "images/train/b.png").unlink()
    (root / "images/train/c.png").unlink()
    (root / "b.png").rename(root / "masks/train/b.png")
    with pytest.raises(FileError, match=r"mask .*train.b\.png has no image; wanted .*images.train"):
        build_dataset("folder", "train", root)


def test_no_images(root: Path) -> None:
    for kind in ("images", "masks"):
        (root / kind / "train").mkdir(parents=True)
    with pytest.raises(InputError, match=r"images.train holds no images; put \.jpg"):
        build_dataset("folder", "train", root)


def test_two_files_of_one_name(root: Path) -> None:
    put(root, "train/a.png")
    put(root, "train/a.jpg")
    with pytest.raises(FileError, match=r"a\.jpg and .*a\.png have one name; keep one or rename"):
        build_dataset("folder", "train", root)


def test_sizes_that_differ(root: Path) -> None:
    put(root, "train/a.png")
    Image.new("L", (4, 6)).save(root / "masks/train/a.png")
    dataset = build_dataset("folder", "train", root)
    wanted = (
        r"images.train.a\.png is 4 x 6 \(height x width\), but its mask .*a\.png is 6 x 4; give"
    )
    with pytest.raises(InputError, match=wanted):
        dataset[0]


def test_unknown_ids_and_colour_masks(root: Path) -> None:
    put(root, "train/a.png", ids=(0, 3))
    with pytest.raises(InputError, match=r"masks.train.a\.png: holds the ids 3 \(12 pixels\)"):
        build_dataset("folder", "train", root)[0]
    Image.new("RGB", (6, 4)).save(root / "masks/train/a.png")
    with pytest.raises(FileError, match=r"a\.png is RGB where ids are expected"):
        build_dataset("folder", "train", root)[0]


@pytest.mark.parametrize(("ids", "void"), [((0, 3, 255), True), ((0, 255), False)])
def test_missing_classes_are_proposed(root: Path, ids: tuple[int, ...], void: bool) -> None:
    put(root, "train/a.png", ids=ids[:2])
    put(root, "train/b.png", ids=ids)
    (root / "classes.yaml").unlink()
    shown = ranges(ids)
    with pytest.raises(
        InputError, match=rf"classes\.yaml does not exist; .* ids {shown}\."
    ) as info:
        build_dataset("folder", "train", root)
    assert "\n" not in str(info.value)
    (root / "classes.yaml").write_text(str(info.value).partition("with your own names: ")[2])
    labels = build_dataset("folder", "train", root).labels
    assert [label.raw_id for label in labels.labels] == list(ids)
    assert labels.labels[-1].ignored is void
    build_dataset("folder", "train", root)[1]


def test_one_channel(root: Path) -> None:
    put(root, "train/a.png")
    dataset = build_dataset("folder", "train", root, channels=1)
    assert dataset.channels == 1
    assert tuple(dataset[0].image.shape) == (1, 4, 6)
    with pytest.raises(SettingError, match="dataset folder: setting channels is 0; Input should"):
        build_dataset("folder", "train", root, channels=0)


def test_more_than_255_classes(root: Path) -> None:
    put(root, "train/a.png")
    ids = np.array([[0, 299, 65535]], np.uint16)
    Image.fromarray(np.zeros((1, 3, 3), np.uint8)).save(root / "images/train/a.png")
    Image.fromarray(ids).save(root / "masks/train/a.png")
    labels = LabelMap.from_names([f"c{i}" for i in range(300)], ignore={65535: "void"})
    import yaml

    (root / "classes.yaml").write_text(yaml.safe_dump(labels.to_dict()))
    sample = build_dataset("folder", "train", root)[0]
    assert sample.mask.tolist() == [[0, 299, 65535]]


def test_fingerprint(root: Path, tmp_path: Path) -> None:
    for name in ("train/a.png", "train/b.png"):
        put(root, name)
    first = build_dataset("folder", "train", root).fingerprint()
    assert len(first) == 64
    moved = root.rename(root.with_name("moved"))
    assert build_dataset("folder", "train", moved).fingerprint() == first
    (moved / "classes.yaml").write_text(CLASSES.replace("tree", "bush"))
    assert build_dataset("folder", "train", moved).fingerprint() != first
    (moved / "classes.yaml").write_text(CLASSES)
    with (moved / "masks/train/a.png").open("ab") as file:
        file.write(b"more")
    assert build_dataset("folder", "train", moved).fingerprint() != first
    moved.rename(root)
