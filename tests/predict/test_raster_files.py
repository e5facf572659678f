"""Every kind of raster, window by window, against the same file read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.predict import raster_files
from semseg.predict.raster_files import open_raster
from tests.predict.raster_support import SIZE, TILES, WINDOWS, georeferenced, numbers, save, whole

tifffile: Any = pytest.importorskip("tifffile")

KINDS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "one strip": (3, "uint8", {}),
    "strips": (3, "uint8", {"rowsperstrip": 7, "compression": "zlib"}),
    "strips of one array": (5, "uint16", {"rowsperstrip": 7}),
    "tiles": (3, "uint8", TILES),
    "plain tiles": (4, "uint16", {"tile": (16, 16)}),
    "BigTIFF": (3, "uint8", TILES | {"bigtiff": True}),
    "predictor": (3, "uint16", TILES | {"predictor": 2}),
    "big-endian": (3, "uint16", TILES | {"byteorder": ">"}),
    "big-endian array": (2, "uint16", {"byteorder": ">"}),
    "grey": (1, "uint16", TILES),
    "floats": (6, "float32", TILES),
}


class TestTiff:
    @pytest.mark.parametrize("kind", KINDS)
    def test_windows_are_parts_of_the_file(self, tmp_path: Path, kind: str) -> None:
        bands, dtype, settings = KINDS[kind]
        values = numbers(bands, dtype)
        file = save(tmp_path / "a.tif", values, **settings)
        raster = open_raster(file, bands)
        assert (raster.size, raster.bands, raster.dtype) == (SIZE, bands, np.dtype(dtype))
        for y, x, height, width in WINDOWS:
            got, missing = raster.window(y, x, height, width)
            assert missing is None
            assert np.array_equal(got, values[y : y + height, x : x + width])
        raster.close()

    @pytest.mark.parametrize("tiles", [{}, TILES])
    @pytest.mark.parametrize("suffix", ["tif", "ome.tif"])
    def test_bands_in_pages_and_planes(self, tmp_path: Path, tiles: dict, suffix: str) -> None:
        values = numbers(3, "uint16")
        planes = np.moveaxis(values, 2, 0).copy()
        pages = tmp_path / f"pages.{suffix}"
        tifffile.imwrite(pages, planes, photometric="minisblack", metadata={"axes": "CYX"}, **tiles)
        planar = tmp_path / f"planar.{suffix}"
        tifffile.imwrite(planar, planes, photometric="rgb", planarconfig="separate", **tiles)
        for file in (pages, planar):
            raster = open_raster(file, 3)
            for y, x, height, width in WINDOWS:
                got = raster.window(y, x, height, width)[0]
                assert np.array_equal(got, values[y : y + height, x : x + width])
            raster.close()

    def test_of_a_pyramid_the_full_size(self, tmp_path: Path) -> None:
        values = numbers(3)
        with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
            writer.write(values, subifds=1, photometric="rgb", **TILES)
            writer.write(values[::2, ::2], subfiletype=1, photometric="rgb", **TILES)
        raster = open_raster(tmp_path / "a.ome.tif", 3)
        assert np.array_equal(whole(raster), values)
        raster.close()

    def test_nodata_where_all_bands_have_it(self, tmp_path: Path) -> None:
        values = numbers(2, "int16")
        values[:9, :9] = -999
        values[20:30, 20:30, 0] = -999
        tags = [(42113, "s", 0, "-999", True)]
        save(tmp_path / "a.tif", values, **TILES, extratags=tags)
        raster = open_raster(tmp_path / "a.tif", 2)
        _, missing = raster.window(3, 2, 40, 40)
        wanted = np.zeros((40, 40), bool)
        wanted[:6, :7] = True
        assert np.array_equal(missing, wanted)
        assert raster.window(50, 50, 20, 20)[1] is None
        raster.close()

    def test_compressions_of_other_libraries(self, tmp_path: Path) -> None:
        file = tmp_path / "lzw.tif"
        Image.fromarray(numbers(3)).save(file, compression="tiff_lzw")
        pytest.importorskip("rasterio", reason="the extra big is not installed")
        raster = open_raster(file, 3)
        assert np.array_equal(whole(raster), numbers(3))
        assert raster.tags == ()
        raster.close()


def test_a_block_is_decoded_once_for_all_windows_around_it(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", numbers(3), **TILES)
    raster = open_raster(tmp_path / "a.tif", 3)
    fetched = []
    inner = raster.fetch

    def fetch(y: int, x: int, height: int, width: int):
        fetched.append((y, x))
        return inner(y, x, height, width)

    raster.fetch = fetch
    for y in range(0, 64, 16):
        for x in range(0, 96, 16):
            raster.window(y, x, 19, 25)
    assert len(fetched) == len(set(fetched)) == 9
    raster.close()


def test_as_many_blocks_are_kept_as_the_budget_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raster_files, "CACHE", 3 * 32 * 48 * 3)
    save(tmp_path / "a.tif", numbers(3), **TILES)
    raster = open_raster(tmp_path / "a.tif", 3)
    for _ in range(3):
        assert np.array_equal(whole(raster), numbers(3))
        for x in range(0, 96, 48):
            raster.window(0, x, 32, 48)
    raster.window(32, 0, 32, 48)
    assert list(raster._cache) == [(0, 0), (0, 48), (32, 0)]
    raster.close()


@pytest.mark.parametrize(("rows", "kept"), [(32, 3), (None, 1)])
def test_only_a_few_blocks_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int | None, kept: int
) -> None:
    monkeypatch.setattr(raster_files, "CACHE", 1)
    tifffile.imwrite(tmp_path / "a.tif", numbers(3), rowsperstrip=8, compression="zlib")
    tifffile.imwrite(tmp_path / "b.tif", numbers(3), **TILES)
    raster = open_raster(tmp_path / ("a.tif" if rows else "b.tif"), 3)
    for y in range(0, 75, 8):
        raster.window(y, 0, 8, 121)
        assert len(raster._cache) <= kept, "strips stay for the windows beside"
    assert np.array_equal(whole(raster), numbers(3))
    raster.close()


class TestGeoTiff:
    def test_windows_and_georeference(self, tmp_path: Path) -> None:
        values = numbers(5, "int32")
        tiled = {"tiled": True, "blockxsize": 32, "blockysize": 16, "compress": "lzw"}
        raster = open_raster(georeferenced(tmp_path / "a.tif", values, **tiled), 5)
        assert raster.dtype == np.int32
        for y, x, height, width in WINDOWS:
            got, missing = raster.window(y, x, height, width)
            assert missing is None
            assert np.array_equal(got, values[y : y + height, x : x + width])
        assert [tag[0] for tag in raster.tags] == [33550, 33922, 34735, 34737]
        raster.close()

    def test_an_alpha_band_beside_the_network_s_says_where_data_is(self, tmp_path: Path) -> None:
        values = numbers(4)
        values[..., 3] = 255
        values[10:20, 30:60, 3] = 0
        file = georeferenced(tmp_path / "a.tif", values, photometric="rgb", alpha="yes")
        raster = open_raster(file, 3)
        got, missing = raster.window(5, 5, 60, 60)
        assert raster.bands == 3
        assert np.array_equal(got, values[5:65, 5:65, :3])
        assert np.array_equal(missing, values[5:65, 5:65, 3] == 0)
        raster.close()
        raster = open_raster(file, 4)  # a fourth band of data that the writer took for alpha
        got, missing = raster.window(5, 5, 60, 60)
        assert missing is None
        assert np.array_equal(got, values[5:65, 5:65])
        raster.close()

    def test_its_own_mask(self, tmp_path: Path) -> None:
        mask = np.full(SIZE, 255, np.uint8)
        mask[:7, 60:] = 0
        raster = open_raster(georeferenced(tmp_path / "a.tif", numbers(3), mask=mask), 3)
        assert np.array_equal(raster.window(0, 0, *SIZE)[1], mask == 0)
        raster.close()

    @pytest.mark.parametrize("nodata", [-7.0, np.nan])
    def test_nodata(self, tmp_path: Path, nodata: float) -> None:
        values = numbers(2, "float32")
        values[3:8, 90:] = nodata
        values[40:50, :, 1] = nodata
        raster = open_raster(georeferenced(tmp_path / "a.tif", values, nodata=nodata), 2)
        wanted = np.zeros(SIZE, bool)
        wanted[3:8, 90:] = True
        assert np.array_equal(raster.window(0, 0, *SIZE)[1], wanted)
        raster.close()


class TestZarr:
    @pytest.mark.parametrize("version", [2, 3])
    @pytest.mark.parametrize(
        ("order", "names", "channels"),
        [
            ((0, 1, 2), None, 5),
            ((2, 0, 1), None, 5),
            ((0, 2, 1), ("y", "band", "x"), 5),
            ((2, 0, 1), ("c", "y", "x"), 83),
        ],
    )
    def test_axes(
        self, tmp_path: Path, version: int, order: tuple, names: tuple | None, channels: int
    ) -> None:
        zarr = pytest.importorskip("zarr", reason="the extra big is not installed")
        values = numbers(5, "uint16").transpose(order)
        more = {"dimension_names": names} if version == 3 else {}
        array = zarr.create_array(
            tmp_path / "a.zarr",
            shape=values.shape,
            dtype=values.dtype,
            chunks=(20, 30, 3),
            zarr_format=version,
            **more,
        )
        array[:] = values
        if version == 2 and names:
            array.attrs["_ARRAY_DIMENSIONS"] = list(names)
        raster = open_raster(tmp_path / "a.zarr", channels)
        assert (raster.size, raster.bands) == (SIZE, 5)
        for y, x, height, width in WINDOWS:
            got = raster.window(y, x, height, width)[0]
            assert np.array_equal(got, numbers(5, "uint16")[y : y + height, x : x + width])

    def test_ome_zarr(self, tmp_path: Path) -> None:
        zarr = pytest.importorskip("zarr", reason="the extra big is not installed")
        values = np.moveaxis(numbers(3), 2, 0)[None, :, None]
        group = zarr.open_group(tmp_path / "a.zarr", mode="w")
        group.create_array("1", data=np.zeros((1, 3, 1, 4, 4)))
        group.create_array("0", data=values)
        axes = [{"name": name} for name in "tczyx"]
        datasets = [{"path": "0"}, {"path": "1"}]
        group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": datasets}]}
        assert np.array_equal(whole(open_raster(tmp_path / "a.zarr", 3)), numbers(3))

    def test_what_is_not_one_image(self, tmp_path: Path) -> None:
        zarr = pytest.importorskip("zarr", reason="the extra big is not installed")
        group = zarr.open_group(tmp_path / "a.zarr", mode="w")
        group.create_array("left", data=numbers(1)[..., 0])
        assert open_raster(tmp_path / "a.zarr", 1).bands == 1
        group.create_array("right", data=numbers(1))
        with pytest.raises(InputError) as error:
            open_raster(tmp_path / "a.zarr", 1)
        assert str(error.value) == (
            f"{tmp_path / 'a.zarr'} holds 2 arrays (left, right); give the path of one"
        )
        zarr.save(tmp_path / "b.zarr", np.zeros((2, 3, 4, 5)))
        with pytest.raises(InputError) as error:
            open_raster(tmp_path / "b.zarr", 3)
        assert str(error.value) == (
            f"image {tmp_path / 'b.zarr'} has the shape (2, 3, 4, 5) (axes without names); wanted "
            "height, width and bands"
        )
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileError, match=r"empty cannot be read: .*; replace the file$"):
            open_raster(tmp_path / "empty", 3)
