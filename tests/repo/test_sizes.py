"""Files and functions stay short enough to be read in one go.

Ruff holds the length of a line where it runs; here it is held without the tool. The docstring of
a function does not count: it is the function's specification.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINE, FUNCTION = 100, 50
NETWORK, MODULE, TESTS = 400, 250, 400

EXCEPTIONS: dict[str, str] = {}
"""``file`` or ``file::function`` and the reason why it is longer. The list only shrinks."""


def files() -> Iterator[tuple[str, str]]:
    """Path below the root and text of each Python file of the repository."""
    for folder in ("src", "tests", "tools", "benchmarks", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def limit(path: str) -> int:
    """Lines that a file may have."""
    if path.startswith("tests/"):
        return TESTS
    family = path.startswith("src/semseg/models/") and path.count("/") == 4
    return NETWORK if family else MODULE


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and lines of each function, without its docstring."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0]
        documented = ast.get_docstring(node) is not None
        docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
        yield node.name, (node.end_lineno or 0) - node.lineno + 1 - docstring


def too_long() -> dict[str, str]:
    """Everything over its limit, exceptions included: place and length."""
    found = {}
    for path, text in files():
        lines = text.splitlines()
        if len(lines) > limit(path):
            found[path] = f"{len(lines)} lines, limit {limit(path)}"
        for name, length in functions(text):
            if length > FUNCTION:
                found[f"{path}::{name}"] = f"{length} lines, limit {FUNCTION}"
        for number, line in enumerate(lines, 1):
            if len(line) > LINE:
                found[f"{path}:{number}"] = f"{len(line)} characters, limit {LINE}"
    return found


def test_limits_by_kind_of_file() -> None:
    assert limit("src/semseg/models/realtime/enet.py") == NETWORK
    assert limit("src/semseg/models/base.py") == MODULE
    assert limit("src/semseg/train/loop.py") == MODULE
    assert limit("tests/models/support.py") == TESTS


def test_a_docstring_does_not_count() -> None:
    text = 'def f():\n    """One.\n\n    Two.\n    """\n    x = 1\n    return x\n'
    assert list(functions(text)) == [("f", 3)]


def test_nothing_is_too_long() -> None:
    wrong = [
        f"{place}: {length}" for place, length in too_long().items() if place not in EXCEPTIONS
    ]
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_needed() -> None:
    assert EXCEPTIONS.keys() <= too_long().keys(), "remove what is short enough by now"
