"""Numbers of rasters as bytes: those that a network saw in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import ValueRange
from semseg.data.bands import read_any
from semseg.predict.raster_files import open_raster
from semseg.predict.raster_values import ByteRule
from tests.predict.raster_support import numbers, save, whole


class TestBytes:
    """Windows against the rules for whole files."""

    def check(self, file: Path, channels: int, values: ValueRange | None = None) -> np.ndarray:
        raster = open_raster(file, channels)
        got, missing = ByteRule(raster, channels, values)(whole(raster))
        raster.close()
        wanted, gone = read_any(file, channels, values)
        assert got.dtype == np.uint8
        assert np.array_equal(got, wanted)
        assert (missing is None) == (gone is None)
        assert missing is None or np.array_equal(missing, gone)
        return got

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
    def test_images(self, tmp_path: Path, channels: int, mode: str) -> None:
        bands = {"LA": 2, "RGB": 3, "RGBA": 4}.get(mode, 1)
        values = numbers(bands, "uint16" if mode == "I;16" else "uint8")
        Image.fromarray(values if bands > 1 else values[..., 0]).save(tmp_path / "a.tif")
        self.check(tmp_path / "a.tif", channels)

    def test_sixteen_bit_colours(self, tmp_path: Path) -> None:
        file = save(tmp_path / "a.tif", numbers(3, "uint16"))
        raster = open_raster(file, 3)
        got, _ = ByteRule(raster, 3, None)(whole(raster))
        raster.close()
        assert np.array_equal(got, np.rint(numbers(3, "uint16") / 257))
        # Pillow rounds since version 13, and cut before
        assert abs(got.astype(int) - read_any(file, 3)[0]).max() <= 1

    @pytest.mark.parametrize("dtype", ["uint8", "uint16"])
    @pytest.mark.parametrize("values", [None, ValueRange(10, 200), ValueRange(0, 90, nodata=7)])
    def test_bands(self, tmp_path: Path, dtype: str, values: ValueRange | None) -> None:
        save(tmp_path / "a.tif", numbers(5, dtype))
        self.check(tmp_path / "a.tif", 5, values)

    def test_floats(self, tmp_path: Path) -> None:
        values = numbers(3, "float32")
        values[4, 5, 1], values[6] = np.nan, -9999
        save(tmp_path / "a.tif", values)
        got = self.check(tmp_path / "a.tif", 3, ValueRange(-50, 150, nodata=-9999))
        assert len(np.unique(got)) == 256

    @pytest.mark.parametrize(
        ("bands", "dtype", "channels", "values", "message"),
        [
            (
                5,
                "uint8",
                3,
                None,
                "has 5 bands, the network takes 3; give an image with the bands it was trained on",
            ),
            (
                3,
                "uint8",
                3 + 1,
                None,
                "has 3 bands, the network takes 4; give an image with the bands it was trained on",
            ),
            (
                1,
                "uint8",
                3,
                ValueRange(0, 100),
                "has 1 bands, the network takes 3; give an image with the bands it was trained on",
            ),
            (
                3,
                "float32",
                3,
                None,
                "holds float32 of unknown range, and the network was trained without a "
                "value_range; convert it to 8 or 16 bit",
            ),
        ],
    )
    def test_what_does_not_fit(
        self,
        tmp_path: Path,
        bands: int,
        dtype: str,
        channels: int,
        values: ValueRange | None,
        message: str,
    ) -> None:
        file = save(tmp_path / "a.tif", numbers(bands, dtype))
        raster = open_raster(file, channels)
        with pytest.raises((InputError, FileError)) as error:
            ByteRule(raster, channels, values)
        assert str(error.value) == f"image {file} {message}"
        raster.close()

    def test_colours_stored_in_another_way(self, tmp_path: Path) -> None:
        Image.fromarray(numbers(1)[..., 0]).convert("P").save(tmp_path / "a.tif")
        raster = open_raster(tmp_path / "a.tif", 3)
        with pytest.raises(InputError) as error:
            ByteRule(raster, 3, None)
        assert str(error.value) == (
            f"image {tmp_path / 'a.tif'} is stored with the colours PALETTE; convert it to upright "
            "grey or RGB"
        )
        raster.close()
