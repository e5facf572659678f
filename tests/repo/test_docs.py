"""What the documentation says is so."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import semseg
from semseg.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def tool(name: str) -> ModuleType:
    """Import a script of ``tools/``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return tool("generate_docs")


def blocks(page: Path) -> list[str]:
    """Return the code of a page: fenced, or indented by four."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [*fenced, "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))]


def lines_starting(word: str) -> list[str]:
    """Return every line of code in the documentation that starts with a word."""
    lines = (line for page in PAGES for block in blocks(page) for line in block.splitlines())
    return [line.partition("  #")[0].strip() for line in lines if line.startswith(f"{word} ")]


def test_generated_parts_are_fresh(generator: ModuleType) -> None:
    for name in generator.FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert generator.fill(text) == text, f"{name} is stale; run `make docs`"


def test_every_generated_part_is_used(generator: ModuleType) -> None:
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in generator.FILES)
    for part in generator.PARTS:
        assert text.count(generator.BEGIN.format(part)) == 1
        assert text.count(generator.END.format(part)) == 1


def test_stale_part_is_seen(generator: ModuleType) -> None:
    begin, end = generator.BEGIN.format("datasets"), generator.END.format("datasets")
    filled = generator.fill(f"before\n{begin}\nstale line\n{end}\nafter")
    assert filled.startswith(f"before\n{begin}\n\n| dataset |")
    assert filled.endswith(f"|\n\n{end}\nafter")
    assert "stale line" not in filled


@pytest.mark.parametrize("line", sorted(set(lines_starting("semseg"))))
def test_commands_of_the_documentation_parse(line: str) -> None:
    line = line.replace("NAME", "unet").replace("VALUE", "1")
    command, bound, _ = app.parse_args(shlex.split(line)[1:], exit_on_error=False)
    assert command is not None
    assert bound is not None


@pytest.mark.parametrize("line", sorted(set(lines_starting("make"))))
def test_make_targets_of_the_documentation_exist(line: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert line.split()[1] in targets


def test_every_target_has_help() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.M)
    assert phony is not None
    assert set(phony[1].split()) == set(re.findall(r"^([a-z]+):.*## ", text, re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert snippets
    monkeypatch.chdir(tmp_path)
    _stand_in_for_a_run(tmp_path)
    for snippet in snippets:
        names: dict[str, object] = {}
        exec(compile(snippet, "README.md", "exec"), names)
        used = {
            node.attr for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Attribute)
        }
        assert used & set(semseg.__all__)


def _stand_in_for_a_run(folder: Path) -> None:
    """Write what the README's Python reads: weights of a network and a photo."""
    from PIL import Image

    from semseg.core.checkpoint import WeightsInfo, save_weights
    from semseg.core.labels import LabelMap
    from semseg.models import create_model, model_entry
    from semseg.models.base import settings_of

    model = create_model("unet", num_classes=2, in_channels=3, width=4)
    info = WeightsInfo(
        model="unet",
        settings=settings_of(model),
        labels=LabelMap.from_names(["sky", "road"]),
        preprocessing=model_entry("unet").preprocessing,
    )
    save_weights(folder / "runs/leaves/best.safetensors", model.state_dict(), info)
    Image.new("RGB", (64, 48), (10, 120, 30)).save(folder / "photo.jpg")


def test_every_public_name_is_documented(generator: ModuleType) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for package in generator.PACKAGES:
        for name in importlib.import_module(package).__all__:
            if not name.startswith("__"):
                assert f"`{package}.{name}`" in text


def test_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == semseg.__version__
    assert citation["license"] == "Apache-2.0"
