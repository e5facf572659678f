"""From a dataset to everything that was found: looks in processes, checks in this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from semseg.core.checks import FileError
from semseg.data.doctor import (
    checks_classes,
    checks_files,
    checks_fit,
    checks_images,
    checks_labels,
    checks_masks,
    checks_twins,
)
from semseg.data.doctor.cases import open_splits
from semseg.data.doctor.findings import SEVERITIES, Check, Evidence, Finding
from semseg.data.doctor.look import Case, Look
from semseg.data.doctor.looker import Looker
from semseg.data.doctor.statistics import SplitFacts, split_facts

CHECKS: tuple[Check, ...] = (
    *checks_files.CHECKS,
    *checks_fit.CHECKS,
    *checks_masks.CHECKS,
    *checks_labels.CHECKS,
    *checks_images.CHECKS,
    *checks_twins.CHECKS,
    *checks_classes.CHECKS,
)
"""All checks, in the order in which their findings are told."""

_CHUNK = 16
_SHIFTED = 400
"""About so many masks are shifted about; more say nothing new."""

_NOT_OF_ONE_FILE = frozenset(("off_by_one", "duplicate"))
"""Errors that taking files out does not mend."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor found.

    Args:
        name: dataset.
        root: its folder.
        looker: reads samples again, for pictures.
        evidence: what was seen of every sample.
        findings: errors first.
        splits: numbers of each split.
        seconds: how long it took.
    """

    name: str
    root: Path | None
    looker: Looker
    evidence: Evidence
    findings: tuple[Finding, ...]
    splits: dict[str, SplitFacts]
    seconds: float

    def of(self, severity: str) -> list[Finding]:
        """Return the findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def quarantine(self) -> list[str]:
        """Files to take out before training: those an error blames, with their partners."""
        files: dict[str, None] = {}
        for finding in self.of("error"):
            if finding.check not in _NOT_OF_ONE_FILE:
                for i in finding.looks:
                    case = self.evidence.looks[i].case
                    files |= dict.fromkeys(str(f) for f in (case.image, case.mask) if f)
        return list(files)

    def summary(self) -> str:
        """Return the number of samples and findings in one line."""
        samples = " + ".join(f"{facts.samples:,} {s}" for s, facts in self.splits.items())
        numbers = ", ".join(f"{len(self.of(s))} {s}s" for s in SEVERITIES)
        return f"{self.name}: {samples or 'no'} samples, {numbers}; {self.seconds:.1f} s"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but what was seen of single samples, as JSON values."""
        labels = self.evidence.labels
        return {
            "dataset": self.name,
            "root": None if self.root is None else str(self.root),
            "seconds": round(self.seconds, 2),
            "labels": labels.to_dict() if labels else None,
            "findings": [finding.to_dict() for finding in self.findings],
            "splits": {split: facts.to_dict() for split, facts in self.splits.items()},
            "quarantine": self.quarantine,
        }


def diagnose(
    name: str,
    root: str | Path | None = None,
    *,
    splits: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Look at every file of a dataset and say what is wrong with it.

    Args:
        name: one of :func:`semseg.data.list_datasets`.
        root: folder of its files, for datasets that have any.
        splits: which to look at; all the dataset has if ``None``, where ``train`` and ``val`` must
            be there and others may be missing.
        settings: of the dataset.
        workers: processes that read files; 0 reads in this one.
        on_progress: called with the number of samples done and of all.

    Raises:
        SemsegError: no dataset, split, setting or folder of that name. Defects of the data are
            findings, never exceptions.

    Example:
        >>> found = diagnose("synthetic", splits=["val"], settings={"length": 2, "size": (48, 64)})
        >>> found.splits["val"].samples, found.of("error")
        (2, [])
    """
    started = time.monotonic()
    folder = None if root is None else Path(root)
    opened = open_splits(name, folder, None if splits is None else tuple(splits), settings or {})
    looker = Looker(
        datasets=opened.datasets,
        labels=opened.labels,
        channels=opened.channels,
        shifting=1 + len(opened.cases) // _SHIFTED,
    )
    looks: list[Look] = []
    for some in _look_at(looker, opened.cases, workers):
        looks += some
        if on_progress is not None:
            on_progress(len(looks), len(opened.cases))
    evidence = Evidence(looks, opened.labels, opened.channels, tuple(opened.found))
    return Diagnosis(
        name=name,
        root=folder,
        looker=looker,
        evidence=evidence,
        findings=judge(evidence),
        splits=split_facts(evidence),
        seconds=time.monotonic() - started,
    )


def judge(evidence: Evidence, checks: Iterable[Check] = CHECKS) -> tuple[Finding, ...]:
    """Return what the checks find, errors first."""
    found = [*evidence.found, *(finding for check in checks for finding in check(evidence))]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def _look_at(looker: Looker, cases: Sequence[Case], workers: int) -> Iterator[list[Look]]:
    chunks = _Chunks(looker, cases)
    if workers == 0:
        yield from (chunks[i] for i in range(len(chunks)))
        return
    try:
        yield from DataLoader(chunks, batch_size=None, num_workers=workers)
    except RuntimeError as error:
        # a worker the system killed; an exception in one passes through with its own type
        if "exited unexpectedly" not in str(error):
            raise
        raise FileError(f"a process that reads images was killed ({error}); give fewer") from error


class _Chunks(Dataset[list[Look]]):
    """Looks at some samples at once: sending results one by one would cost more than reading."""

    def __init__(self, looker: Looker, cases: Sequence[Case]) -> None:
        self.looker = looker
        self.cases = cases

    def __len__(self) -> int:
        return -(-len(self.cases) // _CHUNK)

    def __getitem__(self, index: int) -> list[Look]:
        start = index * _CHUNK
        return [
            self.looker(i, self.cases[i])
            for i in range(start, min(start + _CHUNK, len(self.cases)))
        ]
