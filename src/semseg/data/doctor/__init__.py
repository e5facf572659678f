"""``doctor``: what is wrong with a dataset, told before anything is trained on it."""

from __future__ import annotations

from semseg.data.doctor.diagnosis import Diagnosis, diagnose
from semseg.data.doctor.findings import Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]
