"""The doctor's quick form: headers and a sample of masks, before every training."""

from __future__ import annotations

import time

from semseg.data.base import SegmentationDataset
from semseg.data.doctor import checks_files, checks_fit, checks_images, checks_labels, checks_masks
from semseg.data.doctor.cases import cases_of
from semseg.data.doctor.diagnosis import judge
from semseg.data.doctor.findings import SEVERITIES, Check, Evidence, Finding, count
from semseg.data.doctor.header import Header, read_header
from semseg.data.doctor.look import Case, Look
from semseg.data.doctor.looker import Looker

CHECKS: tuple[Check, ...] = (
    checks_files.damaged,
    checks_files.frames,
    checks_fit.sizes,
    *checks_masks.CHECKS,
    checks_labels.ids,
    checks_labels.meaning_of_void,
    checks_images.bit_depth,
    checks_images.colour_space,
)
"""Checks that a part of the samples can answer."""

_SAMPLES = 12
_HEADERS = 500
_SECONDS = 1.0
"""Per split at most: samples read wholly, samples of which the headers are read, time for both."""


def glance(*datasets: SegmentationDataset) -> str:
    """Look at the headers and at a few samples of splits, and say in one line what was found.

    Reads only; what cannot be answered in a second or so per split is left to
    :func:`semseg.data.doctor.diagnose`.

    Args:
        datasets: the splits, opened.

    Example:
        >>> from semseg.data import build_dataset
        >>> glance(build_dataset("synthetic", "val", length=3)).partition(" in ")[0]
        'doctor: 3 samples and 0 headers'
    """
    started = time.monotonic()
    looks: list[Look] = []
    wholly = 0
    for dataset in datasets:
        seen = _look_at(dataset)
        wholly += sum(look.counts is not None or look.mask_problem is not None for look in seen)
        looks += seen
    first = datasets[0]
    found = judge(Evidence(looks, first.labels, first.channels), CHECKS)
    headers = sum(look.mask is not None for look in looks)
    seconds = time.monotonic() - started
    looked = f"doctor: {count(wholly, 'sample')} and {headers} headers in {seconds:.1f} s"
    return f"{looked}: {_in_words(found)}"


def _look_at(dataset: SegmentationDataset) -> list[Look]:
    """Look at evenly spaced samples of one split, at some wholly, until time is up."""
    started = time.monotonic()
    cases = list(cases_of(dataset))
    looker = Looker({dataset.split: dataset}, dataset.labels, dataset.channels)
    looks = {}
    for i in _spread(len(cases), _SAMPLES):
        looks[i] = looker.without_fit(cases[i])
        if time.monotonic() - started > _SECONDS / 2:
            break
    for i in _spread(len(cases), _HEADERS):
        if time.monotonic() - started > _SECONDS:
            break
        if i not in looks and cases[i].image is not None:
            looks[i] = _headers(cases[i])
    return [looks[i] for i in sorted(looks)]


def _spread(length: int, number: int) -> list[int]:
    """Return evenly spaced positions.

    Example:
        >>> _spread(10, 4), _spread(2, 4)
        ([0, 2, 5, 7], [0, 1])
    """
    number = min(length, number)
    return [i * length // number for i in range(number)]


def _headers(case: Case) -> Look:
    look = Look(case)
    if case.image is not None:
        look.image, look.image_problem = read_header(case.image)
        look.image_size = _upright(look.image)
    if case.mask is not None:
        look.mask, look.mask_problem = read_header(case.mask)
        look.mask_size = _upright(look.mask)
    return look


def _upright(header: Header | None) -> tuple[int, int] | None:
    if header is None:
        return None
    height, width = header.size
    return (width, height) if header.orientation >= 5 else (height, width)


def _in_words(found: tuple[Finding, ...]) -> str:
    if not found:
        return "nothing found"
    numbers = [sum(f.severity == s for f in found) for s in SEVERITIES]
    shown = ", ".join(count(n, s) for n, s in zip(numbers, SEVERITIES, strict=True) if n)
    return f"{shown}; first: {found[0].line(1)} [{found[0].check}]; semseg doctor looks at all"
