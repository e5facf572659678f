"""Names that find themselves, and messages that help to find them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from semseg.core.checks import UnknownNameError
from semseg.core.registry import Registry


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable empty package ``shapes`` with its own registry."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "_names.py").write_text(
        "from semseg.core.registry import Registry\nSHAPES = Registry('shape', 'shapes')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "shapes"]:
        del sys.modules[name]


def enter(name: str, value: int) -> str:
    return f"from shapes._names import SHAPES\nSHAPES.add({name!r}, {value})\n"


def shapes() -> Registry[int]:
    from shapes._names import SHAPES

    return SHAPES


def test_every_module_below_the_package_is_found(package: Path) -> None:
    (package / "flat").mkdir()
    (package / "flat" / "__init__.py").write_text("")
    (package / "flat" / "square.py").write_text(enter("square", 4))
    (package / "corners.py").write_text(enter("triangle", 3))
    found = shapes()
    assert list(found) == ["square", "triangle"]  # alphabetical, not as they were found
    assert len(found) == 2
    assert found["triangle"] == 3
    assert "square" in found
    assert "circle" not in found


def test_nothing_is_imported_before_the_first_look_up(package: Path) -> None:
    (package / "broken.py").write_text("raise ImportError('needs a package')")
    assert shapes().kind == "shape"
    assert "shapes.broken" not in sys.modules


def test_modules_with_an_underscore_are_left_alone(package: Path) -> None:
    (package / "_draft.py").write_text("raise RuntimeError('not to be imported')")
    assert list(shapes()) == []


@pytest.mark.parametrize("where", ["broken.py", "broken/__init__.py"])
def test_a_broken_module_is_an_error_each_time(package: Path, where: str) -> None:
    (package / where).parent.mkdir(exist_ok=True)
    (package / where).write_text("raise ImportError('needs a package')")
    for _ in range(2):
        with pytest.raises(ImportError, match="needs a package"):
            list(shapes())


def test_a_name_is_taken_once() -> None:
    registry: Registry[int] = Registry("shape", "semseg.core")
    registry.add("square", 4)
    with pytest.raises(ValueError, match=r"^shape name 'square' is already taken by 4$"):
        registry.add("square", 5)
    assert registry["square"] == 4


def test_an_unknown_name_shows_the_nearest() -> None:
    registry: Registry[int] = Registry("shape", "semseg.core")
    for sides, name in enumerate(["triangle", "square", "pentagon"], start=3):
        registry.add(name, sides)
    with pytest.raises(UnknownNameError) as caught:
        registry["sqare"]
    assert str(caught.value) == "unknown shape 'sqare'; did you mean 'square'?"
    with pytest.raises(KeyError) as caught:
        registry["xyz"]
    assert str(caught.value) == "unknown shape 'xyz'; known: 'pentagon', 'square', 'triangle'"


def test_importing_the_package_is_light() -> None:
    heavy = "{'torch', 'timm', 'torchvision', 'accelerate', 'numpy', 'matplotlib', 'PIL'}"
    code = f"import sys, semseg; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
