"""``semseg pack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from semseg.cli.console import output, progress

EXAMPLES = """Examples:

    semseg pack photos shards
    semseg pack camvid shards --name camvid --splits train val --per-shard 500
    semseg train recipe.yaml --data.name webdataset --data.root shards
"""

command = App(name="pack", help_epilogue=EXAMPLES)


@command.default
def pack(
    source: Path,
    out: Path,
    /,
    *,
    name: str = "folder",
    splits: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (
        "train",
        "val",
    ),
    per_shard: int = 1000,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a dataset as WebDataset shards.

    Shards are tar files, `train-000000.tar` and so on, that this library and the `webdataset`
    package read; image files go in as they are, masks as PNG of raw ids.

    Args:
        source: the dataset.
        out: folder to write into.
        name: what kind of dataset it is, as `data.name` of a recipe.
        splits: parts of it.
        per_shard: samples of a shard.
        overwrite: replace shards of an earlier call.
    """
    from semseg.data import build_dataset
    from semseg.data.shard_writer import write_shards

    for split in splits:
        with progress(f"{split} samples") as on_progress:
            shards = write_shards(
                build_dataset(name, split, source),
                out,
                per_shard=per_shard,
                overwrite=overwrite,
                on_progress=on_progress,
            )
        output().print(f"{split}: {len(shards)} shards; written to {out}", soft_wrap=True)
