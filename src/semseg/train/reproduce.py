"""Training a run again with other seeds, and what that says of its score."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from semseg.core.checks import InputError
from semseg.train.config import load_recipe
from semseg.train.evaluation import measure_run
from semseg.train.folder import Run
from semseg.train.start import train


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A run beside others that differ in nothing but their seed.

    Args:
        miou: of the run.
        low: lower bound of its interval of 95 %, by drawing the validation images anew.
        high: upper bound.
        others: mIoU by seed.
    """

    miou: float
    low: float
    high: float
    others: dict[int, float]

    @property
    def outside(self) -> list[int]:
        """Seeds whose score lies outside the interval."""
        return [s for s, miou in self.others.items() if not self.low <= miou <= self.high]

    def lines(self) -> list[str]:
        """Return what was found, in words."""
        lines = [f"mIoU {_said(self.miou)}, interval {_said(self.low)} … {_said(self.high)}"]
        for seed, miou in self.others.items():
            place = "outside" if seed in self.outside else "within"
            lines.append(f"seed {seed}: {_said(miou)}, {place} the interval")
        every = [self.miou, *self.others.values()]
        spread = statistics.stdev(every)
        lines.append(
            f"over {len(every)} seeds: mean {_said(statistics.mean(every))}, standard deviation "
            f"{_said(spread)}"
        )
        return lines


def reproduce(
    run: str | Path, seeds: Sequence[int], say: Callable[[str], None] | None = None
) -> Reproduction:
    """Train a run again with other seeds and compare the scores.

    The runs lie beside it as ``NAME-seed1`` …; one that is there is not trained again, and one
    that was stopped goes on.

    Args:
        run: a run folder that is finished.
        seeds: other seeds than the run's own.
        say: told in one line before each training.

    Raises:
        SemsegError: the folder lacks a file, the data changed, or seeds repeat.
    """
    folder = Path(run)
    config = load_recipe(folder)
    if not seeds or len({config.seed, *seeds}) <= len(seeds):
        raise InputError(
            f"reproduce needs seeds that differ from each other and from the run's own "
            f"{config.seed}, got {list(seeds)}"
        )
    measured = measure_run(folder, interval=True)
    assert measured.interval is not None
    others: dict[int, float] = {}
    for seed in seeds:
        name = f"{folder.resolve().name}-seed{seed}"
        beside = folder.resolve().parent
        if say is not None:
            say(f"training {beside / name}")
        again = _trained(folder, {"seed": seed, "name": name, "out": str(beside)}, beside / name)
        if not again.finished or again.miou is None:
            raise InputError(f"{again.folder} was stopped; the same command goes on with it")
        others[seed] = again.miou
    bounds = measured.interval
    return Reproduction(measured.scores.miou, bounds.low["miou"], bounds.high["miou"], others)


def _trained(run: Path, overrides: dict[str, int | str], folder: Path) -> Run:
    return train(run, overrides=overrides, resume=(folder / "config.yaml").exists())


def _said(miou: float) -> str:
    return f"{100 * miou:.2f} %"
