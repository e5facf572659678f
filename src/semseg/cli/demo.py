"""``semseg demo``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from semseg.cli.console import output
from semseg.cli.errors import EXIT_BELOW_WANTED, EXIT_INTERRUPTED

EXAMPLES = """Examples:

    semseg demo
    semseg demo --out elsewhere --overwrite
"""
WANTED_MIOU = 0.85  # what a sound installation reaches with room to spare
SCENES = 8

command = App(name="demo", help_epilogue=EXAMPLES)


@command.default
def demo(
    *,
    out: Path = Path("demo"),
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a small network on generated scenes and write a report; no data.

    Takes about three minutes on two cores. Exit status 1 if the network is worse than it must be.

    Args:
        out: folder to write into.
        overwrite: replace the demo in that folder.
    """
    from semseg.predict import Predictor, predict_files
    from semseg.train import load_recipe, train

    place = {"out": str(out.absolute().parent), "name": out.absolute().name}
    with as_file(files("semseg.cli") / "demo.yaml") as recipe:
        run = train(recipe, overrides=place, overwrite=overwrite)
    if not run.finished or run.miou is None:
        return EXIT_INTERRUPTED
    scenes = _write_scenes(run.folder / "scenes", load_recipe(run.folder).data.settings)
    predictions = run.folder / "predictions"
    predict_files(Predictor(run.folder), scenes, predictions, ("palette", "overlay"))
    console = output()
    console.print(f"predictions of {scenes} in {predictions}", soft_wrap=True)
    console.print(f"report in {run.folder / 'report.html'}", soft_wrap=True)
    good = run.miou >= WANTED_MIOU
    console.print(
        f"mIoU {100 * run.miou:.2f} % on scenes the network has not seen: "
        + ("all is well" if good else f"less than the {100 * WANTED_MIOU:.0f} % it must reach")
    )
    return 0 if good else EXIT_BELOW_WANTED


def _write_scenes(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Write a few generated images that are in neither split as files, to predict on."""
    from PIL import Image

    from semseg.data import build_dataset

    folder.mkdir(parents=True, exist_ok=True)
    # another seed than the recipe's: scenes of the same kind that nothing has used
    dataset = build_dataset("synthetic", "val", **{**settings, "seed": 1, "length": SCENES})
    for index in range(SCENES):
        pixels = dataset[index].image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder
