"""``semseg crf-search``, and ``semseg predict --crf`` after it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.cli import main
from semseg.train import crf_search
from semseg.train.crf_search import search_crf

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that may be written to."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crf_search, "VALUES", {"compat": (1.0, 9.0), "srgb": (5.0,)})
    monkeypatch.setattr(crf_search, "DRAWINGS", 50)


def test_search_then_predict(run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["crf-search", str(run), "--images", "1", "--iterations", "2"]) == 0
    said = capsys.readouterr().out.splitlines()
    found = json.loads((run / "crf.json").read_text())
    assert found["settings"].keys() == {*crf_search.START, "iterations"}
    assert (found["tuned_on"], found["judged_on"], found["drawings"]) == (1, 1, 50)
    assert found["gain"] == found["after"] - found["before"]
    assert found["low"] <= found["gain"] <= found["high"]
    assert found["tuned_after"] >= 0
    assert said[0].startswith("best: sxy 40, srgb ")
    assert re.fullmatch(
        r"1 other images: mIoU [\d.]+ % without, [\d.]+ % with; gain [+-][\d.]+, [+-][\d.]+ … "
        r"[+-][\d.]+ in 95 % of 50 drawings of these images",
        said[2],
    )
    assert said[3] == f"written to {run / 'crf.json'}"

    photos = tmp_path / "data"
    rng = np.random.default_rng(1)
    photos.mkdir()
    Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(photos / "a.png")
    words = ["predict", str(run), str(photos), "--outputs", "ids"]
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    # a CRF that is sure to be seen
    found["settings"] |= {"smooth_compat": 50.0, "compat": 0.0, "iterations": 10}
    (run / "crf.json").write_text(json.dumps(found))
    assert main([*words, "--out", str(tmp_path / "refined"), "--crf"]) == 0
    (one,), (other,) = (list((tmp_path / n).rglob("*.png")) for n in ("plain", "refined"))
    plain, refined = np.array(Image.open(one)), np.array(Image.open(other))
    assert plain.shape == refined.shape
    assert _borders(refined) <= _borders(plain)


def _borders(mask: np.ndarray) -> int:
    return int((np.diff(mask, axis=0) != 0).sum() + (np.diff(mask, axis=1) != 0).sum())


def test_gains_are_of_the_counts() -> None:
    counts = np.array([[[4, 2], [5, 5], [6, 4]], [[1, 0], [1, 0], [1, 0]]])
    # 4 / 7 and 2 / 7; the second class is absent in the second row
    np.testing.assert_allclose(crf_search._mean_iou(counts), [3 / 7, 1])


def test_the_same_seed_finds_the_same(run: Path) -> None:
    one, two = (search_crf(run, images=1, iterations=1, seed=5) for _ in range(2))
    assert one == two


def test_mistakes_take_one_line(run: Path, tmp_path: Path, mistake: Callable[..., str]) -> None:
    wanted = f"{run / 'crf.json'} does not exist; semseg crf-search {run} writes it"
    assert wanted in mistake("predict", run, tmp_path, "--out", tmp_path / "out", "--crf")
    (run / "crf.json").write_text("{")
    assert "crf.json is damaged (" in mistake(
        "predict", run, tmp_path, "--out", tmp_path / "out", "--crf"
    )
    assert "needs an image to tune on and another to judge by, got 2 and images=0" in mistake(
        "crf-search", run, "--images", 0
    )
