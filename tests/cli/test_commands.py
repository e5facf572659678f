"""What each command does when all is well."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import semseg.cli.demo
import semseg.cli.predict
from semseg.cli import main
from semseg.core.checkpoint import read_info
from semseg.models import list_models, model_entry
from tests.cli.conftest import NAMES, SIZE

Capture = pytest.CaptureFixture[str]


def lines(*arguments: object, capsys: Capture, status: int = 0) -> list[str]:
    """Run a command and return its lines on stdout."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == status
    return capsys.readouterr().out.splitlines()


# ---- list and info ---------------------------------------------------------------------------


def test_list_shows_every_network_once(capsys: Capture) -> None:
    heading, *rows = lines("list", capsys=capsys)
    assert heading.split()[:4] == ["name", "family", "year", "parameters"]
    assert [row.split()[0] for row in rows] == list_models()
    assert any(f"{model_entry('unet').num_params:,}" in row for row in rows)


def test_list_filters_and_sorts(capsys: Capture) -> None:
    rows = lines("list", "--max-params", "2e6", "--sort", "parameters", capsys=capsys)[1:]
    counts = [model_entry(row.split()[0]).num_params for row in rows]
    assert counts == sorted(counts)
    assert len(counts) == sum(model_entry(n).num_params <= 2e6 for n in list_models()) > 0
    short = lines("list", "--max-params", "2M", "--sort", "parameters", capsys=capsys)[1:]
    assert short == rows
    rows = lines("list", "--family", "realtime", "--sort", "year", capsys=capsys)[1:]
    assert {row.split()[1] for row in rows} == {"realtime"}
    years = [model_entry(row.split()[0]).year for row in rows]
    assert years == sorted(years)


def test_info_of_a_network(capsys: Capture) -> None:
    shown = dict(line.split("  ", 1) for line in lines("info", "enet", capsys=capsys))
    shown = {key: value.strip() for key, value in shown.items()}
    assert shown["network"] == "enet (realtime)"
    assert shown["paper"] == "arXiv:1606.02147, 2016"
    assert shown["parameters"] == f"{model_entry('enet').num_params:,}"
    # paper, table of costs: 3.83 GFLOP at 360 x 640, which counts more than convolutions
    assert 3.3 < float(shown["cost"].split()[0]) < 3.9
    assert shown["output stride"] == "1"
    assert shown["receptive field"] == "1249 x 1249 pixels"
    assert shown["head logits"] == "19 x 360 x 640"
    assert shown["published on Cityscapes test"].startswith("mIoU 58.3")
    assert shown["setting num_classes"] == "19"


# ---- train, validate, predict ----------------------------------------------------------------


def test_train_keeps_the_recipe_as_it_was_run(recipe: Path, capsys: Capture) -> None:
    out = recipe.parent / "elsewhere"
    said = lines("train", recipe, "--out", out, "--optimizer.lr=0.02", capsys=capsys)
    assert said[-1] == str(out / "tiny")
    config = yaml.safe_load((out / "tiny" / "config.yaml").read_text())
    assert config["optimizer"]["lr"] == 0.02
    assert config["model"]["settings"] == {"width": 4}
    rows = (out / "tiny" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 1


def test_overwrite_replaces_and_resume_goes_on(recipe: Path, capsys: Capture) -> None:
    folder = recipe.parent / "runs" / "tiny"
    lines("train", recipe, capsys=capsys)
    (folder / "old").touch()
    lines("train", recipe, "--overwrite", "--train.max_minutes", "1e-9", capsys=capsys, status=130)
    assert not (folder / "old").exists()
    lines("train", recipe, "--resume", capsys=capsys)
    assert json.loads((folder / "result.json").read_text())["epoch"] == 1


def test_validate_gives_the_score_of_the_run(trained: Path, capsys: Capture) -> None:
    heading, *rows, last = lines("validate", trained, capsys=capsys)
    assert heading.split() == ["class", "IoU", "%"]
    assert tuple(row.split()[0] for row in rows) == NAMES
    miou = read_info(trained / "best.safetensors").metrics["miou"]
    assert last.startswith(f"mIoU {100 * miou:.2f} % (classes that count: present), Dice ")
    said = lines("validate", trained, "--absent", "all", "--split", "train", capsys=capsys)
    assert "(classes that count: all)" in said[-1]


def test_predict_writes_what_was_asked(
    trained: Path, dataset: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, images = tmp_path / "out", dataset / "images" / "val"
    said = lines("predict", trained, images, "--out", out, capsys=capsys)
    wanted = r"2 images in \d+\.\d s \(\d+\.\d images/s\), 0 failed; written to "
    assert re.fullmatch(wanted + re.escape(str(out)), said[-1])
    mask = Image.open(out / "0.png")
    assert (mask.mode, mask.size) == ("P", SIZE[::-1])
    assert np.asarray(mask).max() < len(NAMES)
    kinds = ("ids", "overlay", "confidence")
    pattern = dataset / "images" / "*" / "1.png"
    lines("predict", trained, pattern, "--out", tmp_path / "b", "--outputs", *kinds, capsys=capsys)
    assert {path.name for path in (tmp_path / "b").iterdir() if path.is_dir()} == set(kinds)


def test_predict_goes_on_where_it_was_killed(
    trained: Path, dataset: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = ["predict", trained, dataset / "images" / "val", "--out", tmp_path / "out", "--resume"]
    assert "were done before" not in lines(*words, capsys=capsys)[-1]
    (tmp_path / "out" / "1.png").unlink()
    said = lines(*words, capsys=capsys)
    assert said[-1].startswith("1 images in ")
    assert said[-1].endswith(f"0 failed, 1 were done before; written to {tmp_path / 'out'}")


def test_predict_refuses_large_images(trained: Path, dataset: Path, tmp_path: Path) -> None:
    from semseg.predict.header import MAX_PIXELS

    defaults = inspect.signature(semseg.cli.predict.predict).parameters
    assert defaults["max_pixels"].default == MAX_PIXELS
    images = dataset / "images" / "val"
    words = ["predict", str(trained), str(images), "--out", str(tmp_path / "out")]
    assert main([*words, "--max-pixels", str(SIZE[0] * SIZE[1] - 1)]) == 3
    assert main([*words, "--max-pixels", str(SIZE[0] * SIZE[1]), "--resume"]) == 0


def test_predict_takes_videos(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install 'semseg[video]'")
    clip, out = tmp_path / "clip.gif", tmp_path / "out"
    pictures = [Image.new("RGB", SIZE[::-1], (80 * i, 40, 200)) for i in range(3)]
    pictures[0].save(clip, save_all=True, append_images=pictures[1:])
    words = ["predict", trained, clip, "--out", out, "--outputs", "ids", "overlay"]
    said = lines(*words, "--max-frames", 2, capsys=capsys)
    assert said[-1].startswith("2 frames in ")
    assert sorted(p.name for p in out.rglob("*.*") if p.is_file()) == [
        "000000.png", "000001.png", "clip.mp4", "manifest.jsonl", "settings.yaml",
    ]  # fmt: skip


def test_help_of_predict_names_every_output() -> None:
    from semseg.predict.outputs import OUTPUTS

    docstring = semseg.cli.predict.predict.__doc__
    assert docstring is not None
    for kind in OUTPUTS:
        assert f"`{kind}`" in docstring


def test_predict_does_what_it_can(
    trained: Path, dataset: Path, tmp_path: Path, capsys: Capture
) -> None:
    images = dataset / "images" / "val"
    (images / "1.png").write_bytes(b"no image")
    assert main(["predict", str(trained), str(images), "--out", str(tmp_path / "out")]) == 3
    streams = capsys.readouterr()
    assert "1 images in " in streams.out
    assert "1 failed" in streams.out
    assert streams.err.count("\n") == 1
    assert f"{images / '1.png'} cannot be read" in streams.err
    assert (tmp_path / "out" / "0.png").is_file()


# ---- demo ------------------------------------------------------------------------------------


@pytest.fixture
def small_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the demo train a few steps of a tiny network."""
    recipe = yaml.safe_load(Path(semseg.cli.demo.__file__).with_name("demo.yaml").read_text())
    recipe["model"] = {"name": "unet", "settings": {"width": 4}}
    recipe["data"]["settings"] |= {"length": 8}
    recipe["train"]["epochs"] = 1
    (tmp_path / "demo.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(semseg.cli.demo, "files", lambda _: tmp_path)


@pytest.mark.usefixtures("small_demo")
def test_demo_that_falls_short_says_so(tmp_path: Path, capsys: Capture) -> None:
    said = lines("demo", "--out", tmp_path / "out", capsys=capsys, status=1)
    assert said[-1].endswith("less than the 85 % it must reach")


@pytest.mark.usefixtures("small_demo")
def test_demo_leaves_report_and_predictions(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semseg.cli.demo, "WANTED_MIOU", 0.0)
    out = tmp_path / "out"
    said = lines("demo", "--out", out, capsys=capsys)
    assert said[-1].endswith("all is well")
    assert f"report in {out / 'report.html'}" in said
    assert (out / "report.html").stat().st_size > 10_000
    for kind in ("palette", "overlay"):
        assert len(list((out / "predictions" / kind).glob("*.png"))) == semseg.cli.demo.SCENES
    lines("demo", "--out", out, "--overwrite", capsys=capsys)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_reaches_what_it_promises(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    assert result["miou"] >= 0.88
