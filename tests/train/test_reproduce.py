"""Other seeds, and the interval of a run's score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semseg.cli import main
from semseg.core.checks import InputError
from semseg.train import train
from semseg.train.reproduce import Reproduction, reproduce


@pytest.fixture
def run(recipe: dict[str, Any]) -> Path:
    recipe["train"]["epochs"] = 1
    return train(recipe).folder


def test_other_seeds_train_beside_the_run(run: Path) -> None:
    said: list[str] = []
    found = reproduce(run, [1, 2], said.append)
    assert sorted(path.name for path in run.parent.iterdir()) == [
        "whole",
        "whole-seed1",
        "whole-seed2",
    ]
    assert said == [f"training {run.parent / f'whole-seed{seed}'}" for seed in (1, 2)]
    assert len({found.miou, *found.others.values()}) == 3
    assert found.low <= found.miou <= found.high
    last = (run.parent / "whole-seed1" / "last.safetensors").read_bytes()
    again = reproduce(run, [1, 2])
    assert again == found
    assert (run.parent / "whole-seed1" / "last.safetensors").read_bytes() == last


def test_what_is_said() -> None:
    found = Reproduction(0.6, 0.55, 0.65, {1: 0.64, 2: 0.5})
    assert found.outside == [2]
    assert found.lines() == [
        "mIoU 60.00 %, interval 55.00 % … 65.00 %",
        "seed 1: 64.00 %, within the interval",
        "seed 2: 50.00 %, outside the interval",
        "over 3 seeds: mean 58.00 %, standard deviation 7.21 %",
    ]


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    for others, status in (({1: 0.6}, 0), ({1: 0.1}, 1)):
        answer = Reproduction(0.6, 0.55, 0.65, others)
        monkeypatch.setattr(
            "semseg.train.reproduce.reproduce", lambda run, seeds, say, answer=answer: answer
        )
        assert main(["reproduce", str(run), "--seeds", "1"]) == status
    assert "seed 1: 10.00 %, outside the interval" in capsys.readouterr().out
    assert main(["reproduce", str(run), "--seeds", "one"]) == 2
    assert "--seeds takes whole numbers with commas, got 'one'" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", [[], [7], [1, 1]])
def test_seeds_that_say_nothing(run: Path, seeds: list[int]) -> None:
    with pytest.raises(InputError, match="reproduce needs seeds that differ from each other"):
        reproduce(run, seeds)
