"""``semseg validate`` with more scores than the confusion matrix gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semseg.cli import main
from semseg.metrics import list_metrics
from semseg.train.evaluation import measure_run
from tests.cli.conftest import NAMES

Capture = pytest.CaptureFixture[str]


def test_metrics_interval_and_file(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "scores.json"
    names = ",".join(list_metrics())
    words = ["validate", str(trained), "--metrics", names, "--interval", "--out", str(out)]
    assert main([*words, "--parity", "mmsegmentation"]) == 0
    said = capsys.readouterr().out.splitlines()
    headings = [heading.split()[-1] for heading in said[0].split("%")[:-1]]
    assert headings == ["IoU", "95", "bf_score", "boundary_iou", "pq"]
    assert [line.split()[0] for line in said[1:4]] == list(NAMES)
    found = json.loads(out.read_text())
    low, high = found["interval"]["miou"]
    bounds = f"{100 * low:.2f} … {100 * high:.2f} in 95 % of 1000 drawings of 2 images"
    assert said[4].startswith(f"mIoU {100 * found['miou']:.2f} %, {bounds} (classes that count: ")
    assert found["metrics"].keys() == set(list_metrics())
    boundary = 100 * found["metrics"]["boundary_iou"]["boundary_iou"]
    assert f"boundary_iou: boundary_iou {boundary:.2f} (classes that count: present)" in said
    assert any(line.startswith("ece: ece ") and line.endswith("bins 15") for line in said)
    assert said[-2].startswith(
        f"as mmsegmentation: aAcc {found['parity']['mmsegmentation']['aAcc']}"
    )
    assert said[-1] == f"written to {out}"
    # all pixels of two images of 32 x 48
    assert sum(map(sum, found["confusion"])) == 2 * 32 * 48
    assert sum(n for *_, n in found["metrics"]["ece"]["reliability"]) == 2 * 32 * 48


def test_the_same_seed_gives_the_same_interval(trained: Path) -> None:
    one, two, other = (measure_run(trained, interval=True, seed=seed) for seed in (3, 3, 4))
    assert repr(one.interval) == repr(two.interval)
    assert one.interval is not None
    assert other.interval is not None
    assert (one.interval.seed, other.interval.seed) == (3, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--metrics", "ece,biou"), "unknown metric 'biou'"),
        (("--parity", "mmseg"), "unknown tool 'mmseg'"),
    ],
)
def test_unknown_names_take_one_line(
    words: tuple[str, ...], message: str, trained: Path, capsys: Capture
) -> None:
    assert main(["validate", str(trained), *words]) == 2
    said = capsys.readouterr()
    assert message in said.out + said.err
    assert "Traceback" not in said.out + said.err
