"""A run from recipe to folder: what it leaves, what it learns, what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate.utils import DistributedType
from safetensors.torch import load_file

import semseg
from semseg.core.checkpoint import read_info
from semseg.core.checks import InputError, SettingError
from semseg.core.labels import LabelMap
from semseg.data import build_dataset
from semseg.data.base import DATASETS
from semseg.train import Run, TrainConfig, load_recipe, train
from semseg.train.trackers import INSTALLED
from tests.train.tiny import TinyDataset, entry

UNET: dict[str, Any] = {"name": "unet", "settings": {"width": 4}}


def _rows(run: Run) -> list[dict[str, Any]]:
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe over two classes of random images."""
    monkeypatch.setitem(DATASETS._entries, "tiny", entry(TinyDataset()))
    recipe |= {"data": {"name": "tiny", "workers": 0}, "augment": {"crop": [16, 16]}}
    recipe["train"]["epochs"] = 1
    return recipe


# ---- what a run leaves -------------------------------------------------------------------------


def test_run_leaves_everything(recipe: dict[str, Any], report: None, capsys) -> None:
    run = train(recipe)
    assert run.finished
    assert (run.folder, run.step) == (Path(recipe["out"]) / "whole", 9)
    assert {path.name for path in run.folder.iterdir()} == {
        "best.safetensors",
        "config.yaml",
        "data.json",
        "environment.json",
        "labels.json",
        "last.safetensors",
        "metrics.csv",
        "metrics.jsonl",
        "report.html",
        "result.json",
        "state",
        "tensorboard",
    }
    assert any((run.folder / "tensorboard").rglob("events.*"))
    said = capsys.readouterr().out
    assert "13 training and 13 validation images; 9 steps of 4 images" in said
    assert said.count("\nepoch ") == 3
    assert f"best miou {run.miou:.4f} in epoch {run.epoch}; {run.folder}" in said


def test_stored_recipe_is_complete(whole_run: Run) -> None:
    stored = yaml.safe_load((whole_run.folder / "config.yaml").read_text())
    assert stored.keys() == TrainConfig.model_fields.keys()
    assert load_recipe(whole_run.folder).train.epochs == 3


def test_metrics_rows(whole_run: Run) -> None:
    rows = _rows(whole_run)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6), (3, 9)]
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss_logits"] + row["loss_aux"])
        assert row["images_per_second"] > 0
    assert max(row["val_miou"] for row in rows) == whole_run.miou
    with (whole_run.folder / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in table] == rows


def test_result_holds_the_best_weights_scores(whole_run: Run) -> None:
    result = json.loads((whole_run.folder / "result.json").read_text())
    assert {"miou", "accuracy", "absent", "iou", "confusion", "epoch", "step", "seconds"} < set(
        result
    )
    assert (result["miou"], result["epoch"]) == (whole_run.miou, whole_run.epoch)
    counts = torch.tensor(result["confusion"])
    assert counts.sum() == 13 * 48 * 64  # the synthetic scenes have no ignored pixels
    assert result["accuracy"] == pytest.approx((counts.diag().sum() / counts.sum()).item())


def test_data_and_environment(whole_run: Run) -> None:
    data = json.loads((whole_run.folder / "data.json").read_text())
    dataset = build_dataset("synthetic", "train", length=13, size=(48, 64))
    pixels, of_images = [0] * 8, [0] * 8
    for index in range(13):
        values = dataset[index].mask.flatten().tolist()
        for i in range(8):
            pixels[i] += values.count(i)
            of_images[i] += len(values) * (i in values)
    assert (data["pixels"], data["pixels_of_images"]) == (pixels, of_images)
    assert data["frequencies"]["sky"] == pytest.approx(pixels[0] / sum(pixels))
    assert data["train"] == {"images": 13, "fingerprint": dataset.fingerprint()}
    labels = json.loads((whole_run.folder / "labels.json").read_text())
    assert LabelMap.from_dict(labels) == dataset.labels
    environment = json.loads((whole_run.folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]


def test_weights_need_nothing_else(whole_run: Run) -> None:
    info = read_info(whole_run.folder / "best.safetensors")
    assert info.metrics["miou"] == whole_run.miou
    assert info.provenance["run"] == "whole"
    assert info.provenance["data"]["name"] == "synthetic"
    model = semseg.load(whole_run.folder)
    assert model.config.num_classes == 8
    assert model(torch.zeros(1, 3, 20, 20)).shape == (1, 8, 20, 20)


# ---- what a run does ---------------------------------------------------------------------------


def test_it_learns(recipe: dict[str, Any]) -> None:
    recipe["augment"] = {"hflip": 0}
    recipe["optimizer"] = {"name": "adamw", "lr": 0.01}
    recipe["data"]["settings"]["length"] = 8
    recipe["train"] = {"epochs": 25, "batch_size": 4, "val_every": 25, "device": "cpu"}
    run = train(recipe)
    rows = _rows(run)
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert ["val_miou" in row for row in rows] == [False] * 24 + [True]
    assert run.miou is not None
    assert run.miou > 0.2  # chance is below 0.05


def test_accumulation_is_a_larger_batch(recipe: dict[str, Any]) -> None:
    # without ignored pixels and whatever else depends on the batch
    recipe["model"]["settings"] = {"norm": False, "dropout": 0.0}
    recipe["augment"] = {"hflip": 0}
    recipe["loss"] = {"terms": [{"name": "cross_entropy"}]}
    recipe["data"]["settings"]["length"] = 8
    recipe["train"] |= {"epochs": 1, "ema_decay": None}
    runs = []
    for batch_size, accumulate in ((4, 1), (2, 2), (1, 4)):
        recipe["train"] |= {"batch_size": batch_size, "accumulate": accumulate}
        runs.append(train({**recipe, "name": f"by-{batch_size}"}))
    weights = [load_file(run.folder / "last.safetensors") for run in runs]
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-4, atol=1e-5)


def test_seed_decides(tiny: dict[str, Any]) -> None:
    runs = [train({**tiny, "name": f"r{i}", "seed": seed}) for i, seed in enumerate((1, 1, 2))]
    a, b, c = (load_file(run.folder / "last.safetensors") for run in runs)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_one_sigmoid_channel_learns_two_classes(tiny: dict[str, Any]) -> None:
    tiny["model"] = {"name": "unet", "settings": {"width": 4, "num_classes": 1}}
    tiny["loss"]["terms"].append({"name": "dice"})
    run = train(tiny)
    confusion = json.loads((run.folder / "result.json").read_text())["confusion"]
    assert len(confusion) == 2


def test_start_from_weights(recipe: dict[str, Any], whole_run: Run) -> None:
    recipe["model"]["weights"] = str(whole_run.folder / "best.safetensors")
    recipe["optimizer"]["lr"] = 1e-12
    recipe["train"] |= {"epochs": 1, "ema_decay": 0.999}
    run = train(recipe)
    assert run.miou == pytest.approx(whole_run.miou, abs=0.02)
    old, new = load_file(recipe["model"]["weights"]), load_file(run.folder / "last.safetensors")
    key = next(key for key in old if key.endswith("weight"))
    torch.testing.assert_close(new[key], old[key])


# ---- what a run refuses ------------------------------------------------------------------------


def test_infinite_loss_stops_and_names_the_images(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = TinyDataset(length=8)
    monkeypatch.setitem(DATASETS._entries, "tiny", entry(dataset))
    tiny["optimizer"]["lr"] = 1e30
    tiny["train"] |= {"batch_size": 1, "accumulate": 2, "clip_norm": None, "save_every_steps": None}
    pattern = (
        r"loss 'logits' is (nan|inf) at step [2-4] with tiny-\d\.png, tiny-\d\.png; "
        r"lower optimizer\.lr or set train\.clip_norm, and look at these images"
    )
    with pytest.raises(semseg.core.checks.SemsegError, match=pattern):
        train(tiny)
    folder = Path(tiny["out"]) / tiny["name"]
    assert not (folder / "state").exists()
    assert not (folder / "last.safetensors").exists()


def test_folder_rules(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="holds no run to resume; leave --resume out"):
        train(tiny, resume=True)
    run = train(tiny)
    message = "already holds a run; give --resume to continue it, --overwrite to replace it, or ano"
    with pytest.raises(InputError, match=message):
        train(tiny)
    with pytest.raises(InputError, match="resume and overwrite exclude each other"):
        train(tiny, resume=True, overwrite=True)
    (run.folder / "mine.txt").write_text("x")
    assert train(tiny, overwrite=True).finished
    assert not (run.folder / "mine.txt").exists()
    (run.folder / "config.yaml").unlink()
    with pytest.raises(InputError, match="holds files that are no run; give the run another name"):
        train(tiny, overwrite=True)


def test_recipe_that_cannot_run_costs_no_old_run(tiny: dict[str, Any]) -> None:
    run = train(tiny)
    before = (run.folder / "best.safetensors").read_bytes()
    terms = [{"name": "cross_entropy", "settings": {"class_weights": [1.0]}}]
    with pytest.raises(InputError, match="class_weights has 1 numbers, the data has 2 classes"):
        train({**tiny, "loss": {"terms": terms}}, overwrite=True)
    with pytest.raises(SettingError, match="unet has no setting 'depth'"):
        train({**tiny, "model": {"name": "unet", "settings": {"depth": 3}}}, overwrite=True)
    assert (run.folder / "best.safetensors").read_bytes() == before
    with pytest.raises(SettingError, match="unet has no setting 'depth'"):
        train({**tiny, "name": "new", "model": {"name": "unet", "settings": {"depth": 3}}})
    assert not (run.folder.parent / "new").exists()


def test_resume_needs_the_same_recipe(tiny: dict[str, Any]) -> None:
    train(tiny)
    message = r"another recipe \(optimizer\.lr: 0\.5 against 0\.02; train\.epochs: 9 against 1\)"
    with pytest.raises(InputError, match=message):
        train(tiny, overrides={"optimizer.lr": 0.5, "train.epochs": 9}, resume=True)
    free = {"data.workers": 1, "train.device": "auto", "train.max_minutes": 5}
    assert train(tiny, overrides=free, resume=True).finished


def test_resume_needs_the_same_data(tiny: dict[str, Any], monkeypatch) -> None:
    train(tiny)
    changed = TinyDataset()
    changed.version = "2"
    monkeypatch.setitem(DATASETS._entries, "tiny", entry(changed))
    with pytest.raises(InputError, match="was started with other train data"):
        train(tiny, resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.settings.num_classes": 5}, "has num_classes 5, the data have 2 classes; leave"),
        ({"model.settings.in_channels": 1}, "has in_channels 1, the images of tiny have 3; leave"),
        ({"train.batch_size": 7}, "one step takes 14 images .* tiny has 6 for training; lower"),
        ({"train.precision": "fp16"}, "fp16 needs a GPU; use bf16 or fp32 on a CPU"),
        ({"optimizer.head_lr_factor": 2, "model": UNET}, "UNet has no trunk to tell its head from"),
    ],
)
def test_recipes_that_do_not_fit(
    tiny: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(tiny, overrides=changes)
    assert not Path(tiny["out"]).exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_gpu_is_said(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"train\.device is cuda, but there is none"):
        train(tiny, overrides={"train.device": "cuda"})


def test_split_parameters_are_refused(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = SimpleNamespace(distributed_type=DistributedType.FSDP, end_training=lambda: None)
    monkeypatch.setattr("semseg.train.start._accelerator", lambda *given: launched)
    with pytest.raises(InputError) as caught:
        train(tiny)
    assert str(caught.value) == (
        "accelerate splits parameters between processes here (FSDP), which states and weights "
        "files do not hold; launch with --multi_gpu instead, each network fits one GPU"
    )
    assert not Path(tiny["out"]).exists()


def test_weights_of_other_classes_or_settings_are_refused(
    tiny: dict[str, Any], recipe: dict[str, Any], whole_run: Run
) -> None:
    weights = whole_run.folder / "best.safetensors"
    with pytest.raises(
        InputError, match="trained for other classes than tiny: 8 classes against 2"
    ):
        train(tiny, overrides={"model.weights": str(weights)})
    data = {"name": "synthetic", "settings": {"length": 13, "size": [48, 64]}}
    with pytest.raises(semseg.core.checks.FileError, match="holds tiny with other settings"):
        train({**recipe, "data": data}, overrides={"model": UNET | {"weights": str(weights)}})


def test_unlabelled_validation_is_said(tiny: dict[str, Any], monkeypatch) -> None:
    class Unlabelled(TinyDataset):
        def __getitem__(self, index: int):
            sample = super().__getitem__(index)
            if self.split == "val":
                sample.mask[:] = 255
            return sample

    monkeypatch.setitem(DATASETS._entries, "tiny", entry(Unlabelled()))
    with pytest.raises(InputError, match="no pixel of tiny val is labelled"):
        train(tiny)


def test_without_tensorboard_one_line_says_so(tiny: dict[str, Any], monkeypatch, capsys) -> None:
    monkeypatch.setitem(INSTALLED, "tensorboard", lambda: False)
    run = train(tiny)
    assert not (run.folder / "tensorboard").exists()
    assert capsys.readouterr().out.count("pip install 'semseg[track]'") == 1
