"""Every kind of raster, window by window, against the same file read whole."""

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
from semseg.core.preprocess import ValueRange
from semseg.data.bands import read_any
from semseg.predict import raster_files
from semseg.predict.raster_files import Raster, open_raster
from semseg.predict.raster_values import ByteRule

tifffile: Any = pytest.importorskip("tifffile")

SIZE = 83, 121
WINDOWS = [(0, 0, 83, 121), (0, 0, 16, 16), (5, 7, 40, 64), (50, 100, 33, 21), (82, 120, 1, 1)]
TILES = {"tile": (32, 48), "compression": "zlib"}


def numbers(bands: int, dtype: str = "uint8") -> np.ndarray:
    draw = np.random.default_rng(3)
    if np.dtype(dtype).kind == "f":
        return draw.normal(0, 100, (*SIZE, bands)).astype(dtype)
    return draw.integers(
        0, np.iinfo(dtype).max, (*SIZE, bands), dtype=np.dtype(dtype).newbyteorder("=")
    )


def save(path: Path, values: np.ndarray, **settings: Any) -> Path:
    """A TIFF of ``(H, W, bands)``."""
    bands = values.shape[2]
    colours = bands == 3 and values.dtype.kind == "u"
    settings = {"photometric": "rgb" if colours else "minisblack", "metadata": None} | settings
    if bands > 1:
        settings |= {"planarconfig": "contig"}
    tifffile.imwrite(path, values[..., 0] if bands == 1 else values, **settings)
    return path


def whole(raster: Raster) -> np.ndarray:
    return raster.window(0, 0, *raster.size)[0]


def georeferenced(path: Path, values: np.ndarray, **more: Any) -> Path:
    """A GeoTIFF of ``(H, W, bands)``."""
    rasterio = pytest.importorskip("rasterio", reason="the extra big is not installed")
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)}
    height, width, bands = values.shape
    shape = {"height": height, "width": width, "count": bands, "dtype": values.dtype.name}
    interpretation = more.pop("colorinterp", None)
    mask = more.pop("mask", None)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **shape, **(place | more)) as file,
    ):
        file.write(np.moveaxis(values, 2, 0))
        if interpretation:
            file.colorinterp = [rasterio.enums.ColorInterp[name] for name in interpretation]
        if mask is not None:
            file.write_mask(mask)
    return path


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


class TestBytes:
    """The numbers that a network sees are those it saw in training."""

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
