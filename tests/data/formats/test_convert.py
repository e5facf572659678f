"""Whole folders from one format to another."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError, SemsegError, UnknownNameError
from semseg.data.formats import Mask, convert, label_format, list_formats, read_annotations
from semseg.data.formats.yolo import write as write_yolo
from tests.data.formats.support import PLAIN

MASKS = {
    "a": np.array([[0, 3, 3, 0], [200, 200, 0, 255]], np.uint8),
    "x/b": np.array([[3, 3, 3], [3, 0, 3], [3, 3, 3], [0, 0, 200]], np.uint8),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for stem, ids in MASKS.items():
        file = tmp_path / "images" / f"{stem}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*ids.shape, 3), np.uint8)).save(file)
    return tmp_path / "images"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for stem, ids in MASKS.items():
        mask = Mask(f"{stem}.png", ids)
        label_format("ids").write(tmp_path / "ids" / f"{stem}.png", [mask], PLAIN, None)
    return tmp_path / "ids"


def place(folder: Path, kind: str) -> Path:
    entry = label_format(kind)
    return folder / (f"{kind}{entry.suffixes[0]}" if entry.many else kind)


@pytest.mark.parametrize("kind", list_formats())
def test_there_and_back(kind: str, source: Path, images: Path, tmp_path: Path) -> None:
    middle = place(tmp_path / "middle", kind)
    seen: list[tuple[int, int]] = []
    done = convert(
        source,
        middle,
        kind,
        PLAIN,
        images=images,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (done.images, done.source, done.target, done.out) == (2, "ids", kind, middle)
    assert seen == [(1, 2), (2, 2)]
    entries = read_annotations(middle, kind)
    suffix = (
        ".jpg"
        if label_format(kind).many or kind in ("labelme", "geojson")
        else entries[0].file.suffix
    )
    assert [entry.image for entry in entries] == [f"a{suffix}", f"x/b{suffix}"]
    convert(middle, tmp_path / "back", "ids", PLAIN, kind=kind, images=images)
    for stem, ids in MASKS.items():
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / f"back/{stem}.png")), ids)


def test_images_are_found_by_the_last_part_of_their_names(images: Path, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    write_yolo(tmp_path / "t/b.txt", [Mask("b", MASKS["x/b"])], PLAIN)
    convert(tmp_path / "t", tmp_path / "o.json", "coco", PLAIN, images=images)
    assert read_annotations(tmp_path / "o.json")[0].image == "x/b.jpg"


def test_nothing_is_replaced_unasked(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "x").mkdir(parents=True)
    (out / "x/b.png").write_bytes(b"of value")
    with pytest.raises(FileError, match=r"b\.png exists; choose another place, or allow to overw"):
        convert(source, out, "palette", PLAIN)
    assert not (out / "a.png").exists()
    assert (out / "x/b.png").read_bytes() == b"of value"
    convert(source, out, "palette", PLAIN, overwrite=True)
    with Image.open(out / "x/b.png") as image:
        assert image.mode == "P"


def test_places_that_do_not_fit_the_format(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"coco is one file for all images, but .*out is not named"
    ):
        convert(source, tmp_path / "out", "coco", PLAIN)
    with pytest.raises(
        InputError, match=r"yolo is one file for each image; give a folder, not .*o"
    ):
        convert(source, tmp_path / "out.txt", "yolo", PLAIN)
    with pytest.raises(UnknownNameError, match="unknown label format 'coc'; did you mean 'coco"):
        convert(source, tmp_path / "out", "coc", PLAIN)


def test_images_that_are_missing_or_of_other_sizes(
    source: Path, images: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (9, 9)).save(images / "a.jpg")
    with pytest.raises(
        InputError, match=r"a\.png is for an image of 2 x 4 \(height x width\), but"
    ):
        convert(source, tmp_path / "out", "rgb", PLAIN, images=images)
    (images / "a.jpg").unlink()
    with pytest.raises(FileError, match=r"a\.png is for the image 'a\.png', which .*images lacks;"):
        convert(source, tmp_path / "out", "rgb", PLAIN, images=images)


def test_exif_orientation_counts_for_the_size(source: Path, images: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2, 4)).save(images / "a.jpg", exif=exif)  # 4 wide and 2 high when upright
    convert(source, tmp_path / "out", "yolo", PLAIN, images=images)


def test_labels_that_the_format_cannot_hold_leave_no_file(source: Path, tmp_path: Path) -> None:
    (source / "a.png").write_bytes((source / "x/b.png").read_bytes()[:40])
    for kind in ("coco", "cvat", "palette"):
        with pytest.raises(SemsegError, match=r"a\.png cannot be read"):
            convert(source, place(tmp_path / "out", kind), kind, PLAIN)
    left = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert not left


def test_what_does_not_come_back_is_seen(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import semseg.data.formats.outline as outline

    trace = outline.trace
    for name in ("semseg.data.formats.shapes.trace", "semseg.data.formats.outline.trace"):
        monkeypatch.setattr(name, lambda mask: list(itertools.islice(trace(mask), 1)))
    with pytest.raises(FileError, match=r"out does not give the pixels of a\.png back; please"):
        convert(source, tmp_path / "out", "geojson", PLAIN, background="void")
