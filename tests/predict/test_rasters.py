"""Rasters predicted in windows against the same image in memory; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.core.labels import Label, LabelMap
from semseg.core.preprocess import Preprocessing, ValueRange
from semseg.predict import raster_output, rasters
from semseg.predict.rasters import predict_raster
from semseg.predict.tiles import tiled
from semseg.predict.tiling import Tiling
from tests.predict.conftest import LABELS, RULE, scene
from tests.predict.raster_support import georeferenced, save

tifffile: Any = pytest.importorskip("tifffile")

TILING = Tiling(tile=64, overlap=0.25)
NAMES = LabelMap.from_names(["a", "b", "c", "d"])


def network(num_classes: int = 4, channels: int = 3) -> nn.Module:
    torch.manual_seed(2)
    layers = [nn.Conv2d(channels, 8, 5, padding=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, num_classes, 5, padding=2)).eval()


def in_memory(scores: nn.Module, rule: Preprocessing, pixels: np.ndarray, classes: int = 4):
    image = rule(torch.from_numpy(pixels).permute(2, 0, 1))
    size = (image.shape[1], image.shape[2])

    def read(y: int, x: int, height: int, width: int) -> Tensor:
        return image[:, y : y + height, x : x + width]

    rows = tiled(scores, read, size, TILING, num_classes=classes)
    return np.concatenate([r.labels for r in rows])


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of the output that make several rows of a small image."""
    monkeypatch.setattr(raster_output, "SIDE", 32)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save(tmp_path / "a.tif", scene(150, 110), tile=(32, 32), compression="zlib")


@pytest.mark.usefixtures("small_tiles")
class TestResult:
    @pytest.mark.parametrize("batch", [1, 4])
    def test_raw_ids_of_the_image_in_memory(self, image: Path, tmp_path: Path, batch: int) -> None:
        scores, out = network(), tmp_path / "b" / "out.tif"
        done = predict_raster(scores, RULE, LABELS, image, out, TILING, batch=batch)
        train = in_memory(scores, RULE, scene(150, 110))
        assert len(np.unique(train)) == 4
        with tifffile.TiffFile(out) as file:
            page = file.pages[0]
            assert np.array_equal(page.asarray(), LABELS.decode(train))
            assert page.asarray().dtype == np.uint8
            assert (page.compression, page.tilelength, page.tilewidth) == (8, 32, 32)
            assert not file.is_bigtiff
            colours = page.colormap[:, 26] // 257
        assert colours.tolist() == [0, 0, 142]
        assert (done.out, done.height, done.width) == (out, 150, 110)
        assert (done.resumed, done.tiles) == (0, 6)
        assert [p.name for p in out.parent.iterdir()] == ["out.tif"]

    def test_freed_memory_goes_back_after_every_window(
        self, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[bool] = []
        monkeypatch.setattr(rasters, "give_back", lambda: calls.append(True))
        done = predict_raster(network(), RULE, LABELS, image, tmp_path / "o.tif", TILING)
        assert len(calls) == done.tiles == 6

    def test_one_sigmoid_channel(self, image: Path, tmp_path: Path) -> None:
        scores, labels = network(1), LabelMap.from_names(["no", "yes"])
        predict_raster(scores, RULE, labels, image, tmp_path / "o.tif", TILING, num_classes=1)
        wanted = in_memory(scores, RULE, scene(150, 110), 1)
        assert len(np.unique(wanted)) == 2
        assert np.array_equal(tifffile.imread(tmp_path / "o.tif"), wanted)

    def test_large_ids(self, image: Path, tmp_path: Path) -> None:
        high = [Label(name, 300 * i, i, (i, 0, 0)) for i, name in enumerate("abcd")]
        labels = LabelMap((*high, Label("void", 65535, None, (0, 0, 0))))
        scores, out = network(), tmp_path / "o.tif"
        predict_raster(scores, RULE, labels, image, out, TILING)
        with tifffile.TiffFile(out) as file:
            got = file.pages[0].asarray()
            assert file.pages[0].colormap is None
            assert file.pages[0].tags[42113].value == "65535"
        assert got.dtype == np.uint16
        assert np.array_equal(got, 300 * in_memory(scores, RULE, scene(150, 110)).astype(int))

    def test_many_bytes_make_a_bigtiff(
        self, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scores = network()
        predict_raster(scores, RULE, NAMES, image, tmp_path / "o.tif", TILING)
        monkeypatch.setattr(raster_output, "_CLASSIC", 1000)
        predict_raster(scores, RULE, NAMES, image, tmp_path / "p.tif", TILING)
        with tifffile.TiffFile(tmp_path / "p.tif") as file:
            assert file.is_bigtiff
            assert np.array_equal(file.asarray(), tifffile.imread(tmp_path / "o.tif"))

    def test_bands_of_another_range(self, tmp_path: Path) -> None:
        rule = Preprocessing((0.5,) * 5, (0.25,) * 5, ValueRange(-100, 400, nodata=-9999))
        values = np.random.default_rng(0).normal(150, 80, (150, 110, 5)).astype(np.float32)
        values[30:60, 20:80, 2] = -9999
        values[0, 0, 0] = np.nan
        values[61:64, 20:30] = -5000  # by the file's own word
        save(tmp_path / "a.tif", values, extratags=[(42113, "s", 0, "-5000", True)])
        scores = network(4, 5)
        predict_raster(scores, rule, LABELS, tmp_path / "a.tif", tmp_path / "o.tif", TILING)
        wanted = LABELS.decode(in_memory(scores, rule, rule.values(values)))
        missing = rule.values.missing(values).any(2) | (values == -5000).all(2)
        assert missing.sum() == 30 * 60 + 1 + 30
        wanted[missing] = 0  # void
        assert np.array_equal(tifffile.imread(tmp_path / "o.tif"), wanted)

    def test_georeference_and_nodata(self, tmp_path: Path) -> None:
        pixels = scene(150, 210)
        pixels[:, 96:] = 9  # two columns of tiles see nothing else
        pixels[10:20, 10:20] = 9
        file = georeferenced(tmp_path / "a.tif", pixels, nodata=9)
        scores, seen = network(), []

        def counted(images: Tensor) -> Tensor:
            seen.append(images)
            return scores(images)

        out, progress = tmp_path / "o.tif", []
        predict_raster(
            counted, RULE, NAMES, file, out, TILING, on_progress=lambda *n: progress.append(n)
        )
        import rasterio

        with rasterio.open(file) as before, rasterio.open(out) as after:
            assert after.crs == before.crs == "EPSG:32633"
            assert after.transform == before.transform
            assert after.nodata == 255  # no label has it
            assert after.colormap(1)[1] == (128, 0, 0, 255)
            got = after.read(1)
        wanted = in_memory(scores, RULE, pixels)
        missing = (pixels == 9).all(2)
        wanted[missing] = 255
        assert np.array_equal(got, wanted)
        assert len(seen) == 6  # of 3 x 5 tiles those with data
        assert progress == [(i, 15) for i in range(1, 16)]

    def test_zarr(self, tmp_path: Path) -> None:
        zarr = pytest.importorskip("zarr", reason="the extra big is not installed")
        zarr.save(tmp_path / "a.zarr", scene(150, 110))
        scores, out = network(), tmp_path / "o.tif"
        predict_raster(scores, RULE, NAMES, tmp_path / "a.zarr", out, TILING)
        assert np.array_equal(tifffile.imread(out), in_memory(scores, RULE, scene(150, 110)))


@pytest.mark.usefixtures("small_tiles")
class TestStopped:
    """Runs that end in the middle; :mod:`tests.predict.test_raster_kill` kills them."""

    def stop(self, image: Path, out: Path, tiles: int, **settings: Any) -> None:
        """Begin a run that an error ends."""
        scores, calls = network(), 0

        def failing(images: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > tiles:
                raise KeyboardInterrupt
            return scores(images)

        with pytest.raises(KeyboardInterrupt):
            predict_raster(failing, RULE, NAMES, image, out, TILING, **settings)

    def test_it_goes_on(self, image: Path, tmp_path: Path) -> None:
        whole, out, progress = tmp_path / "whole.tif", tmp_path / "o.tif", []
        predict_raster(network(), RULE, NAMES, image, whole, TILING)
        self.stop(image, out, 4)
        assert not out.exists()
        assert json.loads((tmp_path / "o.tif.part.json").read_text())["rows"] == 64
        done = predict_raster(
            network(),
            RULE,
            NAMES,
            image,
            out,
            TILING,
            on_progress=lambda *n: progress.append(n),
        )
        assert done.resumed == 64
        assert done.tiles == 4
        assert progress == [(i, 6) for i in (3, 4, 5, 6)]
        assert out.read_bytes() == whole.read_bytes()

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"tiling": Tiling(tile=48)}, "tile 64, now tile is 48"),
            ({"tiling": Tiling(tile=64, blend="none")}, "blend 'gaussian', now blend is 'none'"),
            (
                {"made_of": {"weights": "b2"}},
                "weights 'a1', now weights is 'b2'",
            ),
            ({"made_of": {}}, "weights 'a1', now weights is None"),
            ({"labels": LABELS}, "another labels"),
        ],
    )
    def test_with_other_settings(
        self, image: Path, tmp_path: Path, changed: dict[str, Any], message: str
    ) -> None:
        out = tmp_path / "o.tif"
        self.stop(image, out, 4, made_of={"weights": "a1"})
        given = {"labels": NAMES, "tiling": TILING, "made_of": {"weights": "a1"}} | changed
        with pytest.raises(InputError) as error:
            predict_raster(network(), RULE, source=image, out=out, **given)
        assert str(error.value) == (
            f"the unfinished run in {out}.part.json was begun with {message}; give the same again, "
            f"or delete {out}.part.json to start anew"
        )

    def test_with_another_image(self, image: Path, tmp_path: Path) -> None:
        out = tmp_path / "o.tif"
        self.stop(image, out, 4)
        save(image, scene(150, 110, 1), tile=(32, 32), compression="zlib")
        with pytest.raises(InputError, match=r"was begun with source (size|time) \d+, now source "):
            predict_raster(network(), RULE, NAMES, image, out, TILING)
        (tmp_path / "o.tif.part.json").unlink()
        done = predict_raster(network(), RULE, NAMES, image, out, TILING)
        assert done.resumed == 0
        assert np.array_equal(tifffile.imread(out), in_memory(network(), RULE, scene(150, 110, 1)))

    def test_with_a_damaged_state(self, image: Path, tmp_path: Path) -> None:
        out, state = tmp_path / "o.tif", tmp_path / "o.tif.part.json"
        self.stop(image, out, 4)
        good = state.read_text()
        for text in ("", "[]", '{"rows": 3}'):
            state.write_text(text)
            with pytest.raises(FileError) as error:
                predict_raster(network(), RULE, NAMES, image, out, TILING)
            assert str(error.value) == (
                f"the unfinished run in {state} cannot be read; delete {state} to start anew"
            )
        state.write_text(good)
        (tmp_path / "o.tif.part").write_bytes(b"12")
        with pytest.raises(FileError) as error:
            predict_raster(network(), RULE, NAMES, image, out, TILING)
        there = json.loads(good)["bytes"]
        assert str(error.value) == (
            f"{out}.part has 2 bytes of the {there} that were written; delete {state} to start anew"
        )


class TestRefused:
    def test_a_file_that_exists(self, image: Path, tmp_path: Path) -> None:
        out = tmp_path / "o.tif"
        out.write_text("mine")
        with pytest.raises(InputError) as error:
            predict_raster(network(), RULE, NAMES, image, out, TILING)
        assert (
            str(error.value)
            == f"{out} already exists; choose another name, or allow overwriting it"
        )
        assert out.read_text() == "mine"
        assert not (tmp_path / "o.tif.part").exists()
        predict_raster(network(), RULE, NAMES, image, out, TILING, overwrite=True)
        assert tifffile.imread(out).shape == (150, 110)

    def test_the_image_itself(self, image: Path) -> None:
        before = image.read_bytes()
        with pytest.raises(InputError) as error:
            predict_raster(network(), RULE, NAMES, image, image, TILING, overwrite=True)
        assert (
            str(error.value) == f"{image} is the image itself; choose another name for the result"
        )
        assert image.read_bytes() == before

    @pytest.mark.parametrize(("classes", "means"), [(1, 2), (7, 7)])
    def test_labels_of_another_network(
        self, image: Path, tmp_path: Path, classes: int, means: int
    ) -> None:
        with pytest.raises(InputError) as error:
            predict_raster(
                network(), RULE, NAMES, image, tmp_path / "o.tif", TILING, num_classes=classes
            )
        assert str(error.value) == (
            f"the label map has 4 classes, the network predicts {means}; give the labels it was "
            "trained with"
        )

    def test_bands(self, tmp_path: Path) -> None:
        file = save(tmp_path / "a.tif", np.zeros((40, 40, 5), np.uint8))
        with pytest.raises(InputError) as error:
            predict_raster(network(), RULE, NAMES, file, tmp_path / "o.tif", TILING)
        assert str(error.value) == (
            f"image {file} has 5 bands, the network takes 3; give an image with the bands it was "
            "trained on"
        )
        assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
