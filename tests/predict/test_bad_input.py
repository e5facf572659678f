"""One bad file among many: told at the end and in the manifest, and the others are done."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.data.bands import read_any
from semseg.data.images import read_mask
from semseg.predict import Predictor, Summary, predict_files
from tests.predict.conftest import scene
from tests.predict.test_header import png


def errors(out: Path) -> dict[str, str]:
    """Name and error of the images that failed."""
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return {Path(r["image"]).name: r["error"] for r in records if "error" in r}


def check(summary: Summary, done: int, wanted: dict[str, str]) -> None:
    """Summary and manifest tell the same: ``done`` images, and these errors."""
    assert summary.images == done
    assert {f.path.name: f.message for f in summary.failures} == wanted
    assert errors(summary.out) == wanted


def test_a_bomb_among_others(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    (photos / "p1.png").write_bytes(png(60_000, 50_000, 8, b""))
    text = (
        f"{photos}/p1.png has 50000 x 60000 pixels (height x width), 3,000,000,000 together, and "
        "the limit is 100,000,000; if the file is to be trusted and the memory is enough, give "
        "--max-pixels 3000000000 (and --tile, or --raster for a TIFF)"
    )
    check(predict_files(predictor, photos, tmp_path / "out"), 2, {"p1.png": text})


def test_a_bomb_that_is_let_through(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    (photos / "p1.png").write_bytes(png(1000, 1000, 8, b""))
    summary = predict_files(predictor, photos, tmp_path / "out", max_pixels=1_000_000)
    assert "p1.png cannot be read" in summary.failures[0].message
    assert summary.images == 2


def test_max_pixels_alone_decides(
    predictor: Predictor, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that Pillow calls a bomb is predicted if ``max_pixels`` allows it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    summary = predict_files(predictor, photos, tmp_path / "a", max_pixels=64 * 33)
    assert (summary.images, summary.failures) == (3, ())
    summary = predict_files(predictor, photos, tmp_path / "b", max_pixels=2000)
    assert [f.path.name for f in summary.failures] == ["p1.png", "p2.png"]
    summary = predict_files(predictor, photos, tmp_path / "b", resume=True)
    assert (summary.kept, summary.images) == (1, 2)  # another limit does not change what is done
    with pytest.raises(InputError) as caught:
        predict_files(predictor, photos, tmp_path / "c", max_pixels=0)
    assert str(caught.value) == "max_pixels is at least 1, got 0"


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "LA", "1"])
def test_every_colour_space_gives_a_mask(mode: str, predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(scene(24, 32)).convert(mode).save(path)
    summary = predict_files(predictor, path, tmp_path / "out")
    assert (summary.images, summary.failures) == (1, ())
    same = predictor(Image.open(path).convert("RGB")).mask
    np.testing.assert_array_equal(predictor.labels.encode(read_mask(tmp_path / "out/a.png")), same)


def test_of_an_animation_the_first_frame_is_predicted(predictor: Predictor, tmp_path: Path) -> None:
    frames = [Image.fromarray(scene(24, 32, i)) for i in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    predict_files(predictor, tmp_path / "a.png", tmp_path / "out")
    mask = predictor.labels.encode(read_mask(tmp_path / "out/a.png"))
    np.testing.assert_array_equal(mask, predictor(frames[0]).mask)


def test_an_archive_gives_what_its_folder_gives(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "photos.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(photos.iterdir()):
            archive.write(path, path.name)
    predict_files(predictor, photos, tmp_path / "a")
    predict_files(predictor, packed, tmp_path / "b")
    masks = [p.name for p in sorted((tmp_path / "a").glob("*.png"))]
    assert masks == ["p0.png", "p1.png", "p2.png"]
    for name in masks:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert predict_files(predictor, packed, tmp_path / "b", resume=True).kept == 3
    data = bytearray(packed.read_bytes())
    data[data.index(b"IDAT", data.index(b"p1.png")) + 30] ^= 255
    packed.write_bytes(data)  # is newer than the masks now
    os.utime(packed, ns=(2**62, 2**62))
    text = f"{packed}/p1.png is damaged in its archive; pack photos.zip again"
    check(predict_files(predictor, packed, tmp_path / "b", resume=True), 2, {"p1.png": text})


def test_a_list_with_files_that_are_not_there(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"photos/p0.png\nphotos/missing.png\n{photos}\n")
    check(
        predict_files(predictor, listed, tmp_path / "out"),
        1,
        {
            "missing.png": "image photos/missing.png does not exist",
            "photos": f"image {photos} cannot be read: [Errno 21] Is a directory: '{photos}'; "
            "replace the file or take it out of the dataset",
        },
    )


def test_errors_that_no_decoder_declares(
    predictor: Predictor, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, *rest: Any) -> Any:
        if path.name == "p1.png":
            raise IndexError("list index out of range")
        return read_any(path, *rest)

    monkeypatch.setattr("semseg.predict.run.read_any", fail)
    text = (
        f"image {photos}/p1.png cannot be read: IndexError: list index out of range; replace the "
        "file"
    )
    check(predict_files(predictor, photos, tmp_path / "out"), 2, {"p1.png": text})


def test_a_place_that_is_read_only(
    predictor: Predictor, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FileError) as caught:
        predict_files(predictor, photos, tmp_path / "out")
    assert str(caught.value) == (
        f"cannot write {tmp_path}/out: Read-only file system; choose a place that can be written"
    )
