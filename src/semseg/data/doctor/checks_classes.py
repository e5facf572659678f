"""Checks of how often classes occur."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from semseg.data.doctor.findings import Evidence, Finding, count

_SHOWN = 12


def absent(evidence: Evidence) -> Iterator[Finding]:
    """Classes that never occur: not learned where train lacks them, not measured where val does."""
    if evidence.labels is None:
        return
    for split in evidence.splits:
        held = [
            look.counts
            for look in evidence.looks
            if look.case.split == split and look.counts is not None
        ]
        if not held:
            continue
        pixels = np.sum(held, axis=0)
        names = [n for n, p in zip(evidence.labels.names, pixels, strict=False) if not p]
        if not names or len(names) == evidence.labels.num_classes:
            continue
        shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
        result = "which cannot be learned" if split == "train" else "whose IoU cannot be measured"
        text = (
            f"{count(len(names), 'class')} of {evidence.labels.num_classes} without a pixel in "
            f"{split} ({shown}), {result}; check the ids, or add such images"
        )
        yield Finding("absent_class", "warning", text)


CHECKS = (absent,)
