"""What importing costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "accelerate", "numpy", "matplotlib", "pydantic"}


def packages_imported(code: str) -> set[str]:
    """Return top-level packages that a fresh process imports, as ``-X importtime`` tells them."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_import_of_the_package_is_free() -> None:
    imported = packages_imported("import semseg")
    assert "semseg" in imported
    assert not imported & HEAVY


def test_networks_need_torch_alone() -> None:
    imported = packages_imported("import semseg; semseg.list_models()")
    assert "torch" in imported
    assert not imported & {"torchvision", "timm", "accelerate", "matplotlib"}


def test_unknown_name_of_the_package() -> None:
    import semseg

    with pytest.raises(AttributeError, match="module 'semseg' has no attribute 'lod'"):
        semseg.lod  # noqa: B018
    assert set(dir(semseg)) == set(semseg.__all__)
