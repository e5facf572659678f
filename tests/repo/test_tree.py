"""Files of the project as a whole: dependencies, recipes, what must not be in them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*")


def pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def pinned() -> dict[str, str]:
    """Return names and versions of constraints.txt, names normalised."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {normal(name): version for name, version in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[str]:
    """Return every requirement of the package and its extras."""
    project = tomllib.loads(pyproject())["project"]
    extras = project["optional-dependencies"].values()
    return [*project["dependencies"], *(r for extra in extras for r in extra)]


def test_constraints_are_names_and_exact_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9A-Za-z.+!]+", line), line


def test_constraints_cover_what_is_installed() -> None:
    project = tomllib.loads(pyproject())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["export"], *extras["track"]]
    names = {normal(match[0]) for r in wanted if (match := NAME.match(r))} - {"semseg"}
    assert names <= pinned().keys()


@pytest.mark.parametrize("requirement", requirements())
def test_every_lower_bound_says_why(requirement: str) -> None:
    if ">=" not in requirement:
        return
    line = next(line for line in pyproject().splitlines() if f'"{requirement}"' in line)
    tools_of_development = requirement.startswith(("pytest-timeout", "ruff", "mypy", "hypothesis"))
    assert "#" in line.rpartition('"')[2] or tools_of_development


def tracked() -> list[Path]:
    """Return the files git knows; without git there is nothing to check."""
    try:
        command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_file_names_a_package_server_or_this_checkout() -> None:
    forbidden = ("pypi" + ".org", "python" + "hosted", f"{ROOT}/")
    for path in tracked():
        if path.is_file() and path.suffix not in (".png", ".safetensors"):
            text = path.read_text(encoding="utf-8")
            assert not [word for word in forbidden if word in text], path


def test_pictures_are_small() -> None:
    for path in tracked():
        if path.suffix == ".png" and "pictures" in path.parts:
            assert path.stat().st_size < 300_000, path
