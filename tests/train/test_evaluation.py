"""Evaluation against a loop in Python, and the run's best score again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import Preprocessing
from semseg.data.base import DATASETS
from semseg.train import Run, evaluate, train, validate_run
from tests.train.tiny import TinyDataset, entry

RULE = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


class Pointwise(nn.Module):
    """A network whose mode, precision and batch can be seen."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, classes, 1)
        self.dropout = nn.Dropout(0.9)
        self.seen: list[tuple[int, torch.dtype, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append((len(images), images.dtype, torch.is_grad_enabled()))
        logits: Tensor = self.dropout(self.conv(images))
        return logits


def _loop(model: Pointwise, dataset: TinyDataset) -> list[list[int]]:
    k = dataset.labels.num_classes
    counts = [[0] * k for _ in range(k)]
    weight = model.conv.weight.detach()[:, :, 0, 0].tolist()
    bias = model.conv.bias.detach().tolist()
    for index in range(len(dataset)):
        sample = dataset[index]
        for y in range(sample.size[0]):
            for x in range(sample.size[1]):
                truth = int(sample.mask[y, x])
                if truth == dataset.labels.ignore_id:
                    continue
                values = [
                    (float(v) / 255 - m) / s
                    for v, m, s in zip(sample.image[:, y, x], RULE.mean, RULE.std, strict=True)
                ]
                logits = [
                    sum(w * v for w, v in zip(row, values, strict=True)) + b
                    for row, b in zip(weight, bias, strict=True)
                ]
                best = int(logits[0] > 0) if len(logits) == 1 else logits.index(max(logits))
                counts[truth][best] += 1
    return counts


@pytest.mark.parametrize(("channels_out", "classes"), [(2, 2), (1, 2), (3, 3)])
def test_counts_equal_a_plain_loop(channels_out: int, classes: int) -> None:
    model, dataset = Pointwise(channels_out), TinyDataset(classes, length=3)
    model.train()
    matrix = evaluate(model, dataset, RULE)
    assert matrix.counts.tolist() == _loop(model, dataset)
    assert model.seen == [(1, torch.float32, False)] * 3
    assert model.training


def test_shares_add_up_to_the_whole() -> None:
    model, dataset = Pointwise(2), TinyDataset(length=5)
    whole = evaluate(model.eval(), dataset, RULE)
    done: list[int] = []
    shares = [evaluate(model, dataset, RULE, share=(i, 3), progress=done.append) for i in range(3)]
    assert torch.equal((shares[0] + shares[1] + shares[2]).counts, whole.counts)
    assert done == [1, 2, 1, 2, 1]
    assert not model.training


def test_workers_change_nothing() -> None:
    model, dataset = Pointwise(2), TinyDataset()
    one = evaluate(model, dataset, RULE, workers=2)
    assert torch.equal(one.counts, evaluate(model, dataset, RULE).counts)


def test_classes_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="Pointwise has num_classes 3, the data have 2 classes"):
        evaluate(Pointwise(3), TinyDataset(), RULE)
    with pytest.raises(InputError, match="nothing to tell apart; list the background"):
        evaluate(Pointwise(1), TinyDataset(classes=1), RULE)


# ---- a run folder ------------------------------------------------------------------------------


def test_best_score_of_a_run_again(whole_run: Run) -> None:
    result = json.loads((whole_run.folder / "result.json").read_text())
    scores = validate_run(whole_run.folder)
    assert scores.miou == pytest.approx(result["miou"], abs=1e-6)
    assert scores.miou == pytest.approx(whole_run.miou, abs=1e-6)
    assert scores.to_dict(result["iou"].keys())["iou"] == pytest.approx(result["iou"], abs=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"precision": "bf16"}, {"channels_last": True}, {"ema_decay": None}],
    ids=lambda changes: next(iter(changes)),
)
def test_best_score_does_not_depend_on_how_it_was_trained(
    recipe: dict[str, Any], changes: dict[str, Any]
) -> None:
    recipe["train"] |= changes | {"epochs": 2}
    run = train(recipe)
    assert validate_run(run.folder).miou == pytest.approx(run.miou, abs=1e-6)


def test_other_data_and_rules(whole_run: Run) -> None:
    base = validate_run(whole_run.folder)
    assert validate_run(whole_run.folder, split="train").iou != base.iou
    assert validate_run(whole_run.folder, overrides={"data.settings.length": 2}).iou != base.iou
    assert validate_run(whole_run.folder, absent="all").absent == "all"


def test_weights_of_other_classes_are_refused(
    whole_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS._entries, "tiny", entry(TinyDataset()))
    changes = {"data.name": "tiny", "data.settings": {}}
    with pytest.raises(InputError, match="was trained for other classes than tiny: 8 classes ag"):
        validate_run(whole_run.folder, overrides=changes)


def test_folder_without_weights(whole_run: Run, tmp_path: Path) -> None:
    shutil.copy(whole_run.folder / "config.yaml", tmp_path)
    with pytest.raises(FileError, match=r"best\.safetensors do not exist"):
        validate_run(tmp_path)
