"""``semseg train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from semseg.cli.console import output
from semseg.cli.errors import EXIT_INTERRUPTED
from semseg.cli.overrides import parse_overrides
from semseg.cli.recipe_help import recipe_help
from semseg.train.config import TrainConfig

EXAMPLES = """Examples:

    semseg train recipes/synthetic_unet.yaml
    semseg train recipes/camvid_enet.yaml --data.root camvid --train.epochs 10
    semseg train recipes/camvid_enet.yaml --resume
"""

command = App(name="train", help_epilogue=f"{EXAMPLES}\n{recipe_help(TrainConfig)}")


@command.default
def train(
    recipe: Path,
    /,
    *changes: Annotated[str, Parameter(allow_leading_hyphen=True, name="--SECTION.KEY")],
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    overfit_batches: int | None = None,
    profile: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a network as a recipe says.

    Args:
        recipe: a YAML file; `recipes/` holds complete ones.
        changes: recipe keys with other values, e.g. `--optimizer.lr 1e-3`.
        resume: go on where the run of this name stopped.
        overwrite: replace the run of this name.
        overfit_batches: train and validate on the images of so many batches, to see whether the
            network can learn them by heart; short for `--train.overfit_batches`.
        profile: write where the time of some steps goes; short for `--train.profile true`.

    Prints the run folder. Exit status 130 if the training was stopped before its end; its state is
    saved then.
    """
    from semseg.train import train as train_model

    overrides = dict(parse_overrides(changes))
    if overfit_batches is not None:
        overrides["train.overfit_batches"] = overfit_batches
    if profile:
        overrides["train.profile"] = True
    run = train_model(recipe, overrides=overrides, resume=resume, overwrite=overwrite)
    output().print(run.folder, soft_wrap=True)
    return 0 if run.finished else EXIT_INTERRUPTED
