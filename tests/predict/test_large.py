"""A predictor over an image larger than the memory, in Python and as a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.cli import main
from semseg.core.checks import InputError
from semseg.postprocess import DenseCRF
from semseg.predict import Predictor, Views, predict_large
from tests.predict.conftest import LABELS, scene


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "field.tif"
    tifffile.imwrite(path, scene(150, 210), photometric="rgb", tile=(64, 64))
    return path


def test_a_raster_is_what_the_predictor_makes_of_the_image(
    weights: Path, source: Path, tmp_path: Path
) -> None:
    predictor = Predictor(weights, "cpu", tile=64, views=Views.parse(["hflip"]))
    seen: list[tuple[int, int]] = []
    summary = predict_large(
        predictor,
        source,
        tmp_path / "out.tif",
        on_progress=lambda done, of: seen.append((done, of)),
    )
    found = np.asarray(Image.open(tmp_path / "out.tif"))
    wanted = LABELS.decode(predictor(scene(150, 210)).mask)
    np.testing.assert_array_equal(found, wanted)
    assert (summary.height, summary.width, summary.resumed) == (150, 210, 0)
    assert seen[-1] == (summary.tiles, summary.tiles)


def test_a_crf_needs_the_whole_image(weights: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        predict_large(Predictor(weights, "cpu", crf=DenseCRF()), source, tmp_path / "out.tif")
    assert str(caught.value) == (
        "a dense CRF sees the image as a whole; predict a raster without it, or cut it up"
    )


def test_the_command_writes_a_raster(
    weights: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.tif"
    call = ["predict", str(weights), str(source), "--out", str(out), "--raster", "--tile", "64"]
    assert main([*call, "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("150 x 210 pixels in ")
    assert told.rstrip().endswith(f"written to {out}")
    with Image.open(out) as written:
        assert written.size == (210, 150)
    assert main([*call, "--device", "cpu"]) == 2
    assert "out.tif already exists; choose another name" in capsys.readouterr().err


def test_the_command_looks_several_times_and_in_tiles(
    weights: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = {}
    for name, options in {
        "plain": ["--backend", "eager"],
        "fused": ["--backend", "fused"],
        "tiles": ["--backend", "eager", "--tile", "48", "--overlap", "0.5", "--blend", "cosine"],
        "views": ["--backend", "eager", "--tta", "hflip", "scale=0.5", "--tta-mean", "logits"],
    }.items():
        out = tmp_path / name
        call = ["predict", str(weights), str(photos), "--out", str(out), "--device", "cpu"]
        assert main([*call, *options]) == 0, capsys.readouterr().err
        masks[name] = np.asarray(Image.open(out / "p1.png"))
        err = capsys.readouterr().err
        assert ("4 views of each image (hflip scale=0.5)" in err) == (name == "views")
        assert ("fused fp32 at 48 x 64: logits within" in err) == (name == "fused")
    assert (masks["plain"] != masks["fused"]).mean() < 1e-3
    assert 0 < (masks["plain"] != masks["tiles"]).mean() < 0.5
    assert 0 < (masks["plain"] != masks["views"]).mean() < 0.8
