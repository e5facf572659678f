"""A run that was stopped or killed at any moment ends as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from semseg.core.checks import FileError
from semseg.train import Run, train
from semseg.train.loop import Loop
from tests.train.kill import POINTS
from tests.train.same import assert_same_run


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``killed-0``, … of runs that died by SIGKILL, one per point."""
    from tests.train.conftest import RECIPE

    out = tmp_path_factory.mktemp("killed")
    recipe = json.dumps({**RECIPE, "out": str(out)})
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.kill", recipe, *POINTS],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are killed in forked children")
@pytest.mark.parametrize("number", range(len(POINTS)), ids=list(POINTS))
def test_killed_run_goes_on_as_if_it_had_not_been(
    killed: Path, number: int, whole_run: Run
) -> None:
    folder = killed / f"killed-{number}"
    run = train(folder, resume=True)
    assert run.finished
    assert_same_run(run.folder, whole_run.folder)
    names = {path.name for path in (*folder.iterdir(), *(folder / "state").iterdir())}
    assert not [name for name in names if name.startswith(".")]
    assert len([name for name in names if name.startswith("step-")]) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 3, 5])
def test_signal_saves_and_stops(
    recipe: dict[str, Any], at_step, whole_run: Run, number: int, step: int, capsys
) -> None:
    at_step(step, lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    run = train(recipe)
    assert not run.finished
    assert run.step == step
    assert (
        f"stopped by a signal after step {step} of 9; the state is saved" in capsys.readouterr().out
    )
    assert signal.getsignal(number) is before
    assert train(recipe, resume=True).finished
    assert_same_run(run.folder, whole_run.folder)


def test_signal_during_validation_stops_there(
    recipe: dict[str, Any], whole_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Loop._show_validation

    def show(self: Loop, done: int) -> None:
        if self.position.epoch == 1 and done == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, done)

    monkeypatch.setattr(Loop, "_show_validation", show)
    run = train(recipe)
    assert (run.step, run.finished) == (6, False)
    monkeypatch.undo()
    assert train(recipe, resume=True).finished
    assert_same_run(run.folder, whole_run.folder)


def test_time_limit_stops_and_resumes(recipe: dict[str, Any], whole_run: Run) -> None:
    recipe["train"]["max_minutes"] = 1e-9
    run = train(recipe)
    assert (run.step, run.finished) == (1, False)
    run = train(recipe, resume=True)
    assert (run.step, run.finished) == (2, False)
    run = train(recipe, overrides={"train.max_minutes": None}, resume=True)
    assert run.finished
    assert_same_run(run.folder, whole_run.folder)


def test_workers_change_nothing(recipe: dict[str, Any], at_step, whole_run: Run) -> None:
    at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    run = train(recipe, overrides={"data.workers": 2})
    assert not run.finished
    assert train(recipe, overrides={"data.workers": 1}, resume=True).finished
    assert_same_run(run.folder, whole_run.folder)


def _break(file: Path, how: str) -> None:
    if how == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    elif how == "missing":
        file.unlink()
    else:  # one bit
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("model.safetensors", "bit", "model.safetensors has another checksum"),
        ("training.pt", "truncated", "training.pt has another checksum"),
        ("position.json", "missing", "position.json is missing"),
        ("checksums.json", "missing", "checksums.json cannot be read"),
    ],
)
def test_damaged_newest_state_costs_only_its_steps(
    recipe: dict[str, Any], at_step, whole_run: Run, capsys, name: str, how: str, message: str
) -> None:
    at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    folder = train(recipe).folder
    newest = max((folder / "state").iterdir())
    assert newest.name == "step-00000005"
    _break(newest / name, how)
    capsys.readouterr()
    assert train(recipe, resume=True).finished
    said = capsys.readouterr().out
    assert f"{newest} is damaged ({message}); taking the one before it" in said
    assert "going on after step 4" in said
    assert_same_run(folder, whole_run.folder)


def test_no_whole_state_is_an_error(recipe: dict[str, Any], whole_run: Run) -> None:
    folder = Path(recipe["out"]) / recipe["name"]
    shutil.copytree(whole_run.folder, folder)
    for state in (folder / "state").iterdir():
        _break(state / "training.pt", "bit")
    with pytest.raises(FileError, match="holds only damaged training states; start again with"):
        train(recipe, resume=True)


def test_finished_run_stays_as_it_is(whole_run: Run) -> None:
    before = {p: p.read_bytes() for p in whole_run.folder.glob("*.safetensors")}
    run = train(whole_run.folder, resume=True)
    assert run == whole_run
    assert {p: p.read_bytes() for p in whole_run.folder.glob("*.safetensors")} == before


def test_state_is_read_without_pickles(whole_run: Run) -> None:
    for state in (whole_run.folder / "state").iterdir():
        torch.load(state / "training.pt", weights_only=True)
        assert sorted(p.name for p in state.iterdir()) == [
            "checksums.json",
            "model.safetensors",
            "position.json",
            "training.pt",
        ]
