"""A package imports only from packages below it; the order stands in ``pyproject.toml``.

``make lint`` checks the same with import-linter; this test needs no tool, counts imports inside
functions too, and adds the rules that a list of layers cannot say.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


def layers() -> dict[str, int]:
    """Depth of each package, 0 at the top; packages of one depth are siblings."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (contract,) = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    lines = enumerate(contract["layers"])
    return {package.strip(" ()"): depth for depth, line in lines for package in line.split("|")}


DEPTH = layers()


def modules() -> Iterator[tuple[str, str]]:
    """Name and text of each module of the package."""
    for path in sorted((SOURCE / "semseg").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(part for part in parts if part not in ("__init__", "__main__"))
        yield name, path.read_text(encoding="utf-8")


def imports(text: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported, inside functions as well."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{prefix}.{alias.name}") for alias in node.names)


def package_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def problem(module: str, imported: str) -> str | None:
    """Say what is wrong with one import of a module, or nothing."""
    if imported.startswith("."):
        return "relative; write the full name"
    if imported.split(".")[0] == "timm" and module != "semseg.encoders.timm":
        return "only semseg.encoders.timm imports timm"
    if imported.split(".")[0] != "semseg" or imported == "semseg.__version__":
        return None
    here, there = package_of(module), package_of(imported)
    if there not in DEPTH:
        return "not a package with a layer"
    if here == there == "semseg.models":
        family, other = module.split(".")[2:3], imported.split(".")[2:3]
        folders = {p.name for p in (SOURCE / "semseg" / "models").iterdir() if p.is_dir()}
        if family != other and set(family + other) <= folders:
            return "families do not import each other; move what they share to semseg.nn"
        return None
    if here == there or here == "semseg" or DEPTH[here] < DEPTH[there]:
        return None
    return f"{there} is {'beside' if DEPTH[here] == DEPTH[there] else 'above'} {here}"


@pytest.mark.parametrize(
    ("module", "imported", "wrong"),
    [
        ("semseg.nn.conv", "semseg.models.base", "semseg.models is above semseg.nn"),
        ("semseg.data.base", "semseg.metrics.confusion", "semseg.metrics is beside semseg.data"),
        ("semseg.models.dilated.x", "semseg.models.realtime.y", "families do not import"),
        ("semseg.models.dilated.x", "timm.models", "only semseg.encoders.timm imports timm"),
        ("semseg.core.files", "semseg.create_model", "not a package with a layer"),
        ("semseg.core.files", ".checks", "relative"),
    ],
)
def test_wrong_imports_are_noticed(module: str, imported: str, wrong: str) -> None:
    assert wrong in (problem(module, imported) or "")


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("semseg.models.dilated.x", "semseg.models.base"),
        ("semseg.models.dilated.x", "semseg.models.dilated.y"),
        ("semseg.train.loop", "semseg.core.checks"),
        ("semseg.train.folder", "semseg.__version__"),
        ("semseg.encoders.timm", "timm"),
    ],
)
def test_right_imports_pass(module: str, imported: str) -> None:
    assert problem(module, imported) is None


def test_every_package_has_a_layer() -> None:
    folders = {p.parent.name for p in (SOURCE / "semseg").glob("*/__init__.py")}
    assert {f"semseg.{folder}" for folder in folders} <= DEPTH.keys()


def test_no_package_imports_upwards_or_sideways() -> None:
    wrong = [
        f"{module}, line {line}: imports {imported}: {reason}"
        for module, text in modules()
        for line, imported in imports(text)
        if (reason := problem(module, imported))
    ]
    assert not wrong, "\n".join(wrong)
