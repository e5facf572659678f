"""The report of a run: true numbers, nothing from outside, and no failure for want of images."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semseg.core.checks import FileError
from semseg.data import build_dataset
from semseg.metrics import ConfusionMatrix
from semseg.predict import Predictor
from semseg.train import train
from semseg.train.config import load_recipe
from semseg.train.evaluation import measure_run
from semseg.train.report import write_report
from semseg.train.report.plots import curves, heat_map, reliability

DATA = {"size": [32, 48], "length": 12}
RECIPE: dict[str, Any] = {
    "name": "small",
    "model": {"name": "unet", "settings": {"width": 4}},
    "data": {"name": "synthetic", "settings": DATA, "workers": 0},
    "optimizer": {"lr": 0.01},
    "train": {"epochs": 3, "batch_size": 4, "val_every": 2, "device": "cpu"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs, validated after the second and the third."""
    return train(RECIPE | {"out": str(tmp_path_factory.mktemp("runs"))}).folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(trained, tmp_path / "small"))


class Page(HTMLParser):
    """What a test asks of a page; parsing it fails where tags do not match."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                self.links.append(str(value))
            if tag == "img" and name == "src":
                self.images.append(str(value))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def pictures(self) -> list[Image.Image]:
        """The validation images shown, decoded."""
        data = [base64.b64decode(uri.partition(",")[2]) for uri in self.images]
        return [Image.open(io.BytesIO(content)) for content in data]


def result_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_training_leaves_a_report(trained: Path) -> None:
    assert Page(trained / "report.html").text.startswith("small – ")


def test_headline_and_rule(run: Path) -> None:
    assert write_report(run, images=0) == run / "report.html"
    result, page = result_of(run), Page(run / "report.html")
    counted = sum(value is not None for value in result["iou"].values())
    rule = f"Mean over {counted} of 8 classes: those that occur in truth or predictions"
    assert page.text.count(f"{100 * result['miou']:.2f} % mIoU") == 1
    assert f"{rule} (rule: present )" in page.text
    assert "of 12 validation images at their own size, in float32" in page.text
    assert f"Weights of epoch {result['epoch']}, the best of 2 validations." in page.text
    assert f"pixel accuracy {100 * result['accuracy']:.1f} %" in page.text


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("gt", "Mean over 7 of 8 classes: those that occur in the truth (rule: gt )"),
        ("all", "Mean over all 8 classes; one that occurs nowhere counts as 0 (rule: all )"),
    ],
)
def test_other_rules(run: Path, rule: str, text: str) -> None:
    iou = dict.fromkeys(result_of(run)["iou"], 0.5)
    change(run / "result.json", absent=rule, iou=iou | ({"ball": None} if rule == "gt" else {}))
    write_report(run, images=0)
    assert text in Page(run / "report.html").text


def test_interval_and_calibration_are_those_of_validate(run: Path) -> None:
    write_report(run)
    result, text = result_of(run), Page(run / "report.html").text
    measured = measure_run(run, device="cpu", metrics=["ece"], interval=True)
    assert measured.interval is not None
    assert result["interval"] == measured.interval.to_dict()
    low, high = (100 * bound for bound in result["interval"]["miou"])
    assert f"{low:.1f} to {high:.1f} % in 95 of 100 drawings" in text
    error = measured.metrics["ece"]["ece"]
    assert f"Expected calibration error {100 * error:.2f} %" in text
    assert "labelled pixels of all 12 validation images" in text
    assert re.search(r"prediction, one image at a time [\d.]+ images/s", text)


def test_commands_to_repeat_the_run(run: Path) -> None:
    write_report(run, images=0)
    text = Page(run / "report.html").text
    assert f"semseg train {run}/config.yaml --name small-again" in text
    assert f"semseg reproduce {run}" in text
    assert load_recipe(run / "config.yaml", {"name": "small-again"}).folder.name == "small-again"


def test_a_run_that_knows_no_interval(run: Path) -> None:
    result = result_of(run)
    del result["interval"]
    (run / "result.json").write_text(json.dumps(result))
    write_report(run, images=0)
    assert "drawings" not in Page(run / "report.html").text


def test_table_of_classes(run: Path) -> None:
    result = result_of(run)
    bounds = [[0.1, 0.25]] * 6 + [[None, None]] + [[0.1, 0.2]]
    change(run / "result.json", interval=result["interval"] | {"iou": bounds})
    counts = np.array(result["confusion"])
    counts[6], counts[:, 6] = 0, 0
    iou = result["iou"] | {"ball": None}
    change(run / "result.json", confusion=counts.tolist(), iou=iou)
    write_report(run, images=0)
    text = Page(run / "report.html").text
    training = json.loads((run / "data.json").read_text())["frequencies"]
    assert f"ball – – – – 0 0 {100 * training['ball']:.2f}" in text
    truth, predicted = counts[0].sum(), counts[:, 0].sum()
    row = [f"{100 * iou['sky']:.1f}", "10.0 – 25.0", f"{100 * counts[0, 0] / truth:.1f}"]
    row += [f"{100 * counts[0, 0] / predicted:.1f}" if predicted else "–"]
    row += [f"{truth:,}", f"{predicted:,}", f"{100 * training['sky']:.2f}"]
    assert " ".join(["sky", *row]) in text


def test_nothing_comes_from_outside(trained: Path) -> None:
    page = Page(trained / "report.html")
    assert page.links
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    text = (trained / "report.html").read_text()
    assert not re.search(r"url\((?!#)|@import|<script|<link", text)
    assert len(page.ids) == len(set(page.ids))  # although several plots share the page


def test_names_cannot_write_html(run: Path) -> None:
    for name in ("labels.json", "result.json", "data.json"):
        text = (run / name).read_text()
        (run / name).write_text(text.replace('"sky"', '"<b>sky & sea"'))
    write_report(run, images=0)
    text = (run / "report.html").read_text()
    assert "<b>" not in text
    assert text.count("&lt;b&gt;sky &amp; sea") >= 1
    Page(run / "report.html")


def test_worst_and_best_images(run: Path) -> None:
    write_report(run, images=5)
    page = Page(run / "report.html")
    dataset, predictor = build_dataset("synthetic", "val", None, **DATA), Predictor(run, "cpu")
    scores = []
    for i in range(len(dataset)):
        matrix = ConfusionMatrix(8)
        mask = predictor(dataset[i].image.as_subclass(torch.Tensor)).mask
        matrix.update(torch.from_numpy(mask), dataset[i].mask.as_subclass(torch.Tensor))
        scores.append(100 * matrix.scores().miou)
    scores.sort()
    _, _, shown = page.text.partition("Worst")
    worst, _, best = shown.partition("Best")
    found = [[float(x) for x in re.findall(r"([\d.]+) % mIoU", part)] for part in (worst, best)]
    assert found[0] == pytest.approx(scores[:3], abs=0.06)
    assert found[1] == pytest.approx(scores[:-3:-1], abs=0.06)
    assert "from all 12 validation images." in page.text
    assert [picture.size for picture in page.pictures()] == [(48, 32)] * 5 * 4


def test_few_images_are_shown_once(run: Path) -> None:
    write_report(run, images=100)
    assert len(Page(run / "report.html").images) == 12 * 4


def test_many_images_are_sampled(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semseg.train.report.examples.CANDIDATES", 5)
    write_report(run, images=2)
    text = Page(run / "report.html").text
    assert "from 5 evenly spaced of the 12 validation images." in text
    names = set(re.findall(r"(\w+): [\d.]+ % mIoU", text))
    dataset = build_dataset("synthetic", "val", None, **DATA)
    assert len(names) == 2
    assert names <= {Path(dataset.path(i)).name for i in (0, 2, 4, 7, 9)}


def test_large_images_are_made_smaller(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("- 32\n", "- 64\n").replace("- 48\n", "- 960\n"))
    write_report(run, images=1)
    assert {picture.size for picture in Page(run / "report.html").pictures()} == {(480, 32)}


def test_without_the_data_the_report_says_why(run: Path) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("name: synthetic", "name: camvid"))
    write_report(run)
    text = Page(run / "report.html").text
    assert re.search(r"They could not be read again: dataset camvid \S", text)
    assert "Worst" not in text


@pytest.mark.parametrize(
    "name", ["result.json", "metrics.jsonl", "labels.json", "data.json", "config.yaml"]
)
def test_a_folder_that_is_no_run(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(FileError) as caught:
        write_report(run)
    assert str(caught.value) == (
        f"{run / name} cannot be read (No such file or directory); a report needs the folder of "
        "a run that has been validated at least once"
    )


def test_plots_take_the_colours_of_the_page() -> None:
    for svg in (
        curves("a", {"one": ([1, 2], [0.5, 0.25]), "two": ([2], [0.1])}, mark=2),
        heat_map("b", np.eye(3, dtype=np.int64), ["x", "y", "z"]),
        reliability("c", [(0.5, 0.25, 3), (0.9, 1.0, 1)]),
    ):
        assert svg.startswith("<svg")
        assert "currentColor" in svg
        assert "#010203" not in svg
        assert "#000000" not in svg


def test_equal_plots_are_equal_files() -> None:
    lines = {"one": ([1, 2, 3], [3.0, 2.0, 1.0])}
    assert curves("a", lines) == curves("a", lines)


@pytest.mark.parametrize(("classes", "names", "numbers"), [(3, 2, 3), (30, 2, 0), (80, 0, 0)])
def test_heat_map_writes_what_there_is_room_for(classes: int, names: int, numbers: int) -> None:
    counts = np.diag(np.full(classes, 7))
    svg = heat_map("m", counts, [f"class{i}x" for i in range(classes)])
    assert svg.count("class1x") == names  # one per axis
    assert len(re.findall(r">100</text>", svg)) == numbers


def test_heat_map_shows_shares_of_rows() -> None:
    svg = heat_map("m", np.array([[3, 1], [0, 0]]), ["a", "b"])
    assert sorted(re.findall(r">(\d+)</text>", svg)) == ["25", "75"]
