"""``semseg convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from semseg.cli.console import output, progress

EXAMPLES = """Examples:

    semseg convert labelme_folder masks --to palette --classes classes.yaml
    semseg convert labels masks --from yolo --to ids --classes classes.yaml --images images
    semseg convert masks annotations.json --to coco --classes classes.yaml --images images
"""

command = App(name="convert", help_epilogue=EXAMPLES)


@command.default
def convert(
    source: Path,
    out: Path,
    /,
    *,
    to: str,
    classes: Path,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    images: Path | None = None,
    background: str | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Convert label files from one format to another, without changing a pixel.

    Formats: `palette`, `ids` and `rgb` (PNG), `labelme`, `yolo` and `geojson` (a file per image),
    `coco`, `coco_counts`, `coco_polygons`, `coco_panoptic` and `cvat` (one file for all images).
    What was written is read back and compared.

    Args:
        source: a file of labels or a folder of them.
        out: a folder; a file for the formats that hold all images.
        to: format to write.
        classes: `classes.yaml` with names, ids and colours.
        from_: format of `source`; found from the files if not given.
        images: folder of the images, for their sizes and names.
        background: class of what no shape covers; `background` or the first ignored class if not
            given.
        overwrite: replace files.
    """
    from semseg.core.labels import LabelMap
    from semseg.data.formats import convert

    labels = LabelMap.from_yaml(classes)
    with progress("images") as on_progress:
        done = convert(
            source,
            out,
            to,
            labels,
            kind=from_,
            images=images,
            background=background,
            overwrite=overwrite,
            on_progress=on_progress,
        )
    output().print(
        f"{done.images} images from {done.source} to {done.target}, every pixel the same; written "
        f"to {done.out}",
        soft_wrap=True,
    )
