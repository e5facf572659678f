"""Two processes on CPUs against one process that accumulates two batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from semseg.train import train


def _launch(recipe: dict[str, Any], *words: str) -> str:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", "tests.train.launched", json.dumps(recipe), *words),
    ]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_two_processes_are_two_batches(recipe: dict[str, Any]) -> None:
    # what depends on the batch or is drawn per process would differ
    recipe["model"]["settings"] = {"norm": False, "dropout": 0.0}
    recipe["augment"] = {"hflip": 0.5}
    recipe["loss"] = {"terms": [{"name": "cross_entropy"}]}
    one = train({**recipe, "name": "one"})
    recipe |= {"name": "two"}
    recipe["train"] |= {"accumulate": 1, "max_minutes": 1e-9}
    said = _launch(recipe)
    assert "stopped by train.max_minutes after step 1 of 9" in said, said
    recipe["train"]["max_minutes"] = None
    said = _launch(recipe, "resume")
    assert said.count("going on after step 1") == 1
    two = one.folder.with_name("two")
    results = [json.loads((f / "result.json").read_text()) for f in (one.folder, two)]
    assert results[0]["step"] == results[1]["step"]
    counts = [torch.tensor(result["confusion"]) for result in results]
    assert counts[0].sum() == counts[1].sum()
    assert results[1]["miou"] == pytest.approx(results[0]["miou"], abs=1e-4)
    # every process counts its own images; the interval is over all of them
    intervals = [result["interval"] for result in results]
    assert intervals[1]["images"] == intervals[0]["images"] == 13
    assert intervals[1]["miou"] == pytest.approx(intervals[0]["miou"], abs=1e-4)
    weights = [load_file(f / "last.safetensors") for f in (one.folder, two)]
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-6)
    rows = [(f / "metrics.jsonl").read_text().splitlines() for f in (one.folder, two)]
    assert len(rows[0]) == len(rows[1]) == 3
    for a, b in zip(*rows, strict=True):
        assert json.loads(b)["lr"] == json.loads(a)["lr"]
