"""Several runs on one page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from semseg.cli import main
from semseg.core.checks import FileError, InputError
from semseg.train import Run, train
from semseg.train.report.compare import write_comparison


@pytest.fixture
def runs(whole_run: Run, recipe: dict[str, Any]) -> list[Path]:
    recipe |= {"name": "other"}
    recipe["train"] |= {"epochs": 1}
    recipe["optimizer"]["lr"] = 0.5
    return [whole_run.folder, train(recipe).folder]


def test_scores_of_all_and_the_best_first(runs: list[Path], tmp_path: Path) -> None:
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    results = {run.name: json.loads((run / "result.json").read_text()) for run in runs}
    order = sorted(results, key=lambda name: -results[name]["miou"])
    assert page.index(f"<td>{order[0]}</td>") < page.index(f"<td>{order[1]}</td>")
    for result in results.values():
        assert f"<td>{100 * result['miou']:.2f}</td>" in page
    assert "optimizer.lr: 0.5 against 0.02<br>train.epochs: 1 against 3<br>" in page
    assert "do not compare" not in page
    assert "src=" not in page
    assert "href=" not in page.replace('href="#', "")


def test_intervals_of_those_that_have_one(runs: list[Path], tmp_path: Path) -> None:
    old = Path(shutil.copytree(runs[1], tmp_path / "old"))
    result = json.loads((old / "result.json").read_text())
    low, high = (100 * bound for bound in result.pop("interval")["miou"])
    (old / "result.json").write_text(json.dumps(result))
    page = write_comparison([runs[1], old], tmp_path / "page.html").read_text()
    assert page.count(f"<td>{low:.1f} – {high:.1f}</td>") == 1
    assert page.count("<td>–</td>") == 1


def test_the_highest_of_each_class_is_bold(runs: list[Path], tmp_path: Path) -> None:
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    both = [json.loads((run / "result.json").read_text())["iou"] for run in runs]
    for name in both[0]:
        row = re.search(rf"<tr><td>{name}</td>(.*)</tr>", page)
        assert row is not None
        values = [one[name] for one in both]
        known = [value for value in values if value is not None]
        bold = re.findall(r'class="top">([\d.]+)<', row[1])
        wanted = [f"{100 * max(known):.1f}"] * values.count(max(known)) if known else []
        assert bold == wanted


def test_what_does_not_compare_is_said(runs: list[Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    data = json.loads((other / "data.json").read_text())
    data["val"]["fingerprint"] = "0" * 64
    (other / "data.json").write_text(json.dumps(data))
    result = json.loads((other / "result.json").read_text())
    (other / "result.json").write_text(json.dumps(result | {"absent": "gt"}))
    page = write_comparison([runs[0], other], tmp_path / "page.html").read_text()
    assert "The runs were validated on different images, so the scores do not compare." in page
    assert "The rules differ, so the scores do not compare." in page


def test_refusals(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a comparison needs two runs or more, got 1"):
        write_comparison(runs[:1], tmp_path / "page.html")
    with pytest.raises(FileError, match="gone"):
        write_comparison([runs[0], tmp_path / "gone"], tmp_path / "page.html")
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    (other / "labels.json").write_text(json.dumps({"classes": ["a", "b"]}))
    with pytest.raises(InputError, match="other and whole have other classes, so their scores"):
        write_comparison([runs[0], other], tmp_path / "page.html")


def test_the_command(runs: list[Path], tmp_path: Path, capsys, monkeypatch) -> None:
    page = tmp_path / "both.html"
    assert main(["report", *map(str, runs), "--out", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    monkeypatch.setattr("semseg.train.report.write_report", lambda run, images: run / "report.html")
    assert main(["report", str(runs[0])]) == 0
    assert capsys.readouterr().out.strip() == str(runs[0] / "report.html")
    assert main(["report"]) == 2
    assert "report needs a run folder, or several" in capsys.readouterr().err
    assert main(["report", str(runs[0]), "--out", str(page)]) == 2
    assert "the page of one run is its own report.html" in capsys.readouterr().err
