"""A tracker that fails or hangs never stops training."""

from __future__ import annotations

import io
import threading
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semseg.data import build_dataset
from semseg.predict import Predictor
from semseg.predict.render import strip
from semseg.train import train
from semseg.train.trackers import INSTALLED, Trackers, missing


class Pages:
    """An accelerator as far as trackers see one."""

    def __init__(
        self, fail: bool = False, hang: threading.Event | None = None, name: str = "wandb"
    ) -> None:
        self.fail, self.hang, self.name = fail, hang, name
        self.trackers: list[Any] = [self]
        self.rows: list[tuple[dict[str, float], int]] = []
        self.shown: list[tuple[str, tuple[int, ...], int]] = []
        self.finished = False

    def init_trackers(self, project: str) -> None:
        if self.hang:
            self.hang.wait()

    def log(self, row: dict[str, float], step: int) -> None:
        if self.fail:
            raise ConnectionError("no route to host\nand much more")
        self.rows.append((row, step))

    def log_images(self, pictures: dict[str, np.ndarray], step: int) -> None:
        self.shown += [(name, picture.shape, step) for name, picture in pictures.items()]

    def finish(self) -> None:
        self.finished = True


def test_rows_are_sent_in_order() -> None:
    pages, said = Pages(), []
    with Trackers(pages, said.append) as trackers:
        for step in range(3):
            trackers.log({"loss": 1.0}, step)
    assert [step for _, step in pages.rows] == [0, 1, 2]
    assert pages.finished
    assert not said


@pytest.mark.parametrize(("name", "count"), [("wandb", 1), ("mlflow", 0)])
def test_pictures_are_sent_where_they_are_shown(name: str, count: int) -> None:
    pages, said = Pages(name=name), []
    with Trackers(pages, said.append) as trackers:
        trackers.show({"val/0": np.zeros((2, 3, 3), np.uint8)}, 7)
    assert not said
    assert pages.shown == [("val/0", (1, 2, 3, 3), 7)] * count


def test_tensorboard_shows_validation_images(recipe: dict[str, Any]) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe["train"] |= {"epochs": 2}
    run = train(recipe)
    page = events.EventAccumulator(str(run.folder / "tensorboard" / "semseg")).Reload()
    assert page.Tags()["images"] == [f"val/{i}" for i in range(4)]
    shown = page.Images("val/0")
    assert [one.step for one in shown] == [3, 6]
    image = Image.open(io.BytesIO(shown[-1].encoded_image_string))
    sample = build_dataset("synthetic", "val", **recipe["data"]["settings"])[0]
    pixels, truth = (x.as_subclass(torch.Tensor) for x in (sample.image, sample.mask))
    found = Predictor(run.folder / "last.safetensors", "cpu")(pixels)
    want = strip(pixels.permute(1, 2, 0).numpy(), truth.numpy(), found.mask, found.labels)
    assert np.array_equal(np.asarray(image), np.asarray(want))


def test_one_that_fails_is_left_out() -> None:
    pages, said = Pages(fail=True), []
    with Trackers(pages, said.append) as trackers:
        trackers.log({"loss": 1.0}, 0)
        trackers.log({"loss": 1.0}, 1)
    assert said == ["tracker left out: ConnectionError: no route to host; training goes on"]


def test_one_that_hangs_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semseg.train.trackers.PATIENCE", 0.2)
    hang, said = threading.Event(), []
    pages = Pages(hang=hang)
    with Trackers(pages, said.append) as trackers:
        trackers.log({"loss": 1.0}, 0)
    hang.set()
    assert len(said) == 1
    assert said[0].startswith("a tracker did not answer for 0 s; the run is whole without it")
    assert pages.trackers == [], "the end of the accelerator would wait for it again"


def test_what_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INSTALLED, "wandb", lambda: False)
    assert missing(["wandb"]) == ["no wandb pages; pip install wandb adds them"]
    assert missing([]) == []


def test_a_run_ends_well_with_a_tracker_that_fails(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: object, *args: object, **settings: object) -> None:
        raise OSError("the disk of the page is full")

    monkeypatch.setattr("accelerate.Accelerator.log", fail)
    recipe["train"] |= {"epochs": 1}
    assert train(recipe).finished
    said = capsys.readouterr().out
    assert "tracker left out: OSError: the disk of the page is full; training goes on" in said
