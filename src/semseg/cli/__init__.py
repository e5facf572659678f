"""The command line: one file per command, no arithmetic.

Commands are imported when they are called, and what is heavy inside their functions, so that
``semseg --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App

from semseg import __version__
from semseg.cli.errors import EXIT_INTERRUPTED, EXIT_MISTAKE, one_line

COMMANDS = {
    "demo": ("demo", "Train a small network on generated scenes and write a report; no data."),
    "list": ("list_networks", "List the networks with year, parameters and paper."),
    "info": ("info", "Show one network: paper, parameters, cost, output shapes, results."),
    "doctor": ("doctor", "Look for everything that is wrong with a dataset."),
    "train": ("train", "Train a network as a recipe says."),
    "validate": ("validate", "Measure a trained network on its validation images."),
    "reproduce": (
        "reproduce",
        "Train a run again with other seeds, and say whether their scores lie within its interval.",
    ),
    "report": ("report", "Write the page of a run, or one page that compares several."),
    "predict": ("predict", "Segment images and write masks, colours and overlays."),
    "crf-search": ("crf_search", "Tune a dense CRF for a trained network, and say what it gains."),
    "convert": (
        "convert",
        "Convert label files from one format to another, without changing a pixel.",
    ),
    "pack": ("pack", "Write a dataset as WebDataset shards."),
}
"""Module of each command, and its line in ``semseg --help``: the first of its docstring."""

app = App(
    name="semseg",
    help="Semantic segmentation: train, check, run and ship networks from FCN to today.",
    version=__version__,
    help_format="markdown",
    parse_mode="strict",
    result_action="return_value",
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
)
for _name, (_module, _summary) in COMMANDS.items():
    app.command(f"semseg.cli.{_module}:command", name=_name, help=_summary)
app.register_install_completion_command(help="Install completion of commands for your shell.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    Args:
        arguments: the words after ``semseg``; those of the process if ``None``.

    Returns:
        0; 1 when ``demo`` falls short, ``doctor`` finds errors or ``reproduce`` other scores; 2
        for a mistake of the user, told in one line on stderr; 3 when ``predict`` could not do
        every file; 130 after Ctrl-C and when ``train`` stopped before its end. Any other
        exception is a bug and passes through with its traceback.
    """
    try:
        return app(sys.argv[1:] if arguments is None else list(arguments)) or 0
    except KeyboardInterrupt:
        sys.stderr.write("semseg: interrupted\n")
        return EXIT_INTERRUPTED
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        sys.stderr.write(f"semseg: {line}\n")
        return EXIT_MISTAKE
