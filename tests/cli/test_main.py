"""The command as a whole: help, exit statuses, what is imported."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import pytest

import semseg.cli
from semseg import __version__
from semseg.cli import COMMANDS, main
from semseg.core.checks import InputError

HEAVY = ("torch", "torchvision", "timm", "accelerate", "matplotlib")


def imported_by(*arguments: str) -> tuple[int, set[str], str]:
    """Run the command in a fresh process; return status, heavy packages imported, output."""
    code = (
        "import sys; from semseg.cli import main; status = main(sys.argv[1:]); "
        f"print('imported:', *(m for m in {HEAVY!r} if m in sys.modules)); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert not done.stderr, done.stderr
    text, _, names = done.stdout.rpartition("imported:")
    return done.returncode, set(names.split()), text


@pytest.mark.parametrize("arguments", [("--help",), (), ("--version",)])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    status, heavy, text = imported_by(*arguments)
    assert status == 0
    assert heavy == set()
    assert text.strip()


@pytest.mark.parametrize("command", ["demo", "list", "info", "validate", "predict"])
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    status, heavy, text = imported_by(command, "--help")
    assert status == 0
    assert heavy == set()
    assert f"semseg {command}" in text


def test_list_imports_no_trunks_and_no_engine() -> None:
    status, heavy, _ = imported_by("list")
    assert status == 0
    assert heavy == {"torch"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f" semseg {command}" in text.partition("Examples:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_line_in_the_help_is_the_first_of_the_docstring(command: str) -> None:
    module, summary = COMMANDS[command]
    function = import_module(f"semseg.cli.{module}").command.default_command
    docstring = inspect.getdoc(function)
    assert docstring is not None
    assert docstring.splitlines()[0] == summary


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["lst"], "list"),
        (["list", "--familly", "x"], "--family"),
        (["info"], "NAME"),
        (["list", "--sort", "size"], "parameters"),
        (["list", "--max-params", "many"], "many"),
        (["predict", "run", "images"], "--out"),
        (["train"], "RECIPE"),
    ],
)
def test_wrong_call_is_one_line(
    arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert wanted in error


def broken(error: BaseException) -> Callable[..., int]:
    def call(*_: object) -> int:
        raise error

    return call


def test_mistake_of_several_lines_becomes_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(semseg.cli, "app", broken(InputError("write it:\n\nclasses:\n  - sky")))
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "semseg: write it: classes: - sky\n"


def test_bug_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semseg.cli, "app", broken(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["list"])


def test_interrupt_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(semseg.cli, "app", broken(KeyboardInterrupt()))
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "semseg: interrupted\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_reader_that_leaves_sees_no_traceback() -> None:
    code = "import sys; from semseg.cli import main; sys.exit(main(['list', '--sort', 'year']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(120)


def test_completion_knows_commands_and_options() -> None:
    script = semseg.cli.app.generate_completion(shell="bash")
    for command in COMMANDS:
        assert command in script
    assert "--max-params" in script


def test_the_package_is_the_command() -> None:
    command = [sys.executable, "-m", "semseg", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, __version__, "")
