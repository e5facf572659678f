"""The doctor's page: one HTML file that needs nothing else, and its companions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from semseg.core.files import write_text
from semseg.data.doctor.diagnosis import CHECKS, Diagnosis
from semseg.data.doctor.findings import SEVERITIES, Finding
from semseg.data.doctor.pictures import Shown, show

_PER_FINDING = 4
_PER_SPLIT = 4
_LEAST_FIT = 4


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class in one split.

    Args:
        name: of the class.
        color: CSS colour.
        share: of the labelled pixels.
        images: in which it occurs.
        median_frequency: weight by SegNet's rule, if it can be told.
        enet: weight by ENet's rule, if it can be told.
    """

    name: str
    color: str
    share: float
    images: int
    median_frequency: float | None
    enet: float | None


def write_all(diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Write ``doctor.html``, ``doctor.json`` and ``quarantine.txt`` into a folder.

    Args:
        diagnosis: what was found.
        folder: made if it is not there.

    Returns:
        The files.

    Raises:
        FileError: the place cannot be written.
    """
    texts = {
        "doctor.html": page(diagnosis),
        "doctor.json": json.dumps(diagnosis.to_dict(), indent=1) + "\n",
        "quarantine.txt": "".join(f"{file}\n" for file in diagnosis.quarantine),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def page(diagnosis: Diagnosis) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "number": "{:,}".format}
    template = environment.from_string(
        (files(__package__) / "page.html").read_text(encoding="utf-8")
    )
    return template.render(
        diagnosis=diagnosis,
        severities=SEVERITIES,
        found=[(finding, _pictures(diagnosis, finding)) for finding in diagnosis.findings],
        classes={split: _rows(diagnosis, split) for split in diagnosis.splits},
        examples={split: _examples(diagnosis, split) for split in diagnosis.splits},
        least=_least_fitting(diagnosis),
        checks=[(check.__doc__ or "").splitlines()[0] for check in CHECKS],
    )


def _pictures(diagnosis: Diagnosis, finding: Finding) -> list[Shown]:
    looks = diagnosis.evidence.looks
    shown = (show(diagnosis.looker, looks[i]) for i in finding.looks[:_PER_FINDING])
    return [picture for picture in shown if picture.panels]


def _examples(diagnosis: Diagnosis, split: str) -> list[Shown]:
    """Return evenly spaced samples of a split."""
    looks = [look for look in diagnosis.evidence.looks if look.case.split == split]
    number = min(_PER_SPLIT, len(looks))
    return [show(diagnosis.looker, looks[i * len(looks) // number]) for i in range(number)]


def _least_fitting(diagnosis: Diagnosis) -> list[tuple[float, Shown]]:
    """Return the samples whose masks follow the edges of their images least."""
    fits = [(look.fit, i) for i, look in enumerate(diagnosis.evidence.looks) if look.fit]
    looks = diagnosis.evidence.looks
    return [(fit, show(diagnosis.looker, looks[i])) for fit, i in sorted(fits)[:_LEAST_FIT]]


def _rows(diagnosis: Diagnosis, split: str) -> list[ClassRow]:
    labels, facts = diagnosis.evidence.labels, diagnosis.splits[split]
    if labels is None:
        return []
    total = sum(facts.pixels)
    return [
        ClassRow(
            name=label.name,
            color="rgb({}, {}, {})".format(*label.color),
            share=facts.pixels[i] / total if total else 0.0,
            images=facts.images[i],
            median_frequency=facts.median_frequency[i] if facts.median_frequency else None,
            enet=facts.enet[i] if facts.enet else None,
        )
        for i, label in enumerate(labels.classes)
    ]


def _percent(value: float) -> str:
    """Return a share in percent.

    Example:
        >>> _percent(0.1234), _percent(0.0)
        ('12.34', '0')
    """
    return f"{100 * value:.2f}" if value else "0"
