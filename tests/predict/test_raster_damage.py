"""Rasters that cannot be read, in one line each."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.predict import raster_files
from semseg.predict.raster_files import open_raster
from tests.predict.raster_support import TILES, georeferenced, numbers, whole

tifffile: Any = pytest.importorskip("tifffile")


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


class TestRefused:
    @pytest.mark.parametrize("settings", [{}, TILES, {"rowsperstrip": 9, "compression": "zlib"}])
    def test_cut_short(self, tmp_path: Path, settings: dict) -> None:
        file = tmp_path / "a.tif"
        tifffile.imwrite(file, numbers(3), **settings)
        before = file.stat().st_size
        there = cut(file, 0.6).stat().st_size
        with pytest.raises(FileError) as error:
            open_raster(file, 3)
        assert str(error.value) == (
            f"image {file} is cut short: it has {there} bytes of {before}; replace the file"
        )

    def test_a_georeferenced_file_cut_short(self, tmp_path: Path) -> None:
        file = cut(georeferenced(tmp_path / "a.tif", numbers(3)), 0.6)
        with pytest.raises(FileError, match=r"is cut short: it has \d+ bytes of \d+; replace the"):
            open_raster(file, 3)

    def test_damaged_inside(self, tmp_path: Path) -> None:
        file = tmp_path / "a.tif"
        tifffile.imwrite(file, numbers(3), **TILES)
        data = bytearray(file.read_bytes())
        data[3000:9000] = bytes(6000)
        file.write_bytes(data)
        raster = open_raster(file, 3)
        with pytest.raises(FileError) as error:
            whole(raster)
        assert str(error.value).startswith(f"image {file} cannot be read: ")
        assert str(error.value).endswith("; replace the file")
        raster.close()

    @pytest.mark.parametrize("name", ["a.tif", "a.png"])
    def test_no_image(self, tmp_path: Path, name: str) -> None:
        pytest.importorskip("rasterio", reason="the extra big is not installed")
        file = tmp_path / name
        file.write_text("nothing to see")
        with pytest.raises(FileError) as error:
            open_raster(file, 3)
        assert str(error.value).startswith(f"image {file} cannot be read: ")
        assert "\n" not in str(error.value)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileError) as error:
            open_raster(tmp_path / "a.tif", 3)
        assert str(error.value) == f"image {tmp_path / 'a.tif'} does not exist"

    def test_more_axes(self, tmp_path: Path) -> None:
        file = tmp_path / "a.tif"
        axes = {"metadata": {"axes": "TZYX"}, "photometric": "minisblack"}
        tifffile.imwrite(file, np.zeros((2, 4, 9, 9), np.uint8), **axes)
        with pytest.raises(FileError) as error:
            open_raster(file, 3)
        assert str(error.value) == (
            f"image {file} has the shape (2, 4, 9, 9) (TZYX); wanted height, width and bands"
        )

    def test_one_huge_block(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(raster_files, "_LARGEST", 30_000)
        file = tmp_path / "a.tif"
        tifffile.imwrite(file, numbers(3), rowsperstrip=83, compression="zlib")
        with pytest.raises(InputError) as error:
            open_raster(file, 3)
        assert str(error.value) == (
            f"image {file} is stored in blocks of 83 x 121 pixels, 0.0 GB each; rewrite it in "
            "tiles (gdal_translate -co TILED=YES)"
        )

    @pytest.mark.parametrize(
        ("package", "write"),
        [
            ("tifffile", lambda path: Image.new("L", (9, 9)).save(path / "a.tif")),
            ("rasterio", lambda path: Image.new("L", (9, 9)).save(path / "a.png")),
            ("zarr", lambda path: (path / "a.zarr").mkdir()),
        ],
    )
    def test_a_package_that_is_missing(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        package: str,
        write: Callable[[Path], Any],
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        write(tmp_path)
        (file,) = tmp_path.iterdir()
        with pytest.raises(InputError) as error:
            open_raster(file, 3)
        assert str(error.value) == (
            f"image {file} is read in windows, which needs {package}; pip install 'semseg[big]'"
        )


def test_files_without_a_georeference_warn_nobody(tmp_path: Path) -> None:
    pytest.importorskip("rasterio", reason="the extra big is not installed")
    Image.fromarray(numbers(3)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raster = open_raster(tmp_path / "a.png", 3)
    assert np.array_equal(whole(raster), numbers(3))
    raster.close()
