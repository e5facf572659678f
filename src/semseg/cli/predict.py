"""``semseg predict``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from semseg.cli.console import output
from semseg.cli.errors import EXIT_SOME_FAILED
from semseg.cli.pace import paced

if TYPE_CHECKING:
    from semseg.predict import Predictor, Summary

DEFAULT_TILE = 1024
"""Of rasters, which are never taken whole."""

EXAMPLES = """Examples:

    semseg predict runs/camvid_enet photos --out masks
    semseg predict runs/camvid_enet 'photos/**/*.jpg' --out masks --outputs ids overlay
    semseg predict runs/camvid_enet photos.zip --out masks --resume
    semseg predict runs/camvid_enet drive.mp4 --out seen --outputs overlay
    semseg predict runs/camvid_enet photos --out masks --tta hflip scale=0.75,1.25
    semseg predict runs/fields orthophoto.tif --out fields.tif --raster --tile 1024
    semseg predict best.safetensors photo.jpg --out masks --device cpu
"""

command = App(name="predict", help_epilogue=EXAMPLES)


@command.default
def predict(
    run: Path,
    source: str,
    /,
    *,
    out: Path,
    outputs: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    resume: Annotated[bool, Parameter(negative="")] = False,
    max_pixels: int = 100_000_000,
    max_frames: int | None = None,
    device: str | None = None,
    crf: Annotated[bool, Parameter(negative="")] = False,
    backend: str = "auto",
    precision: str = "fp32",
    tile: int | None = None,
    overlap: float = 0.25,
    blend: str = "gaussian",
    tta: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    tta_mean: str = "probabilities",
    raster: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Segment images and write masks, colours and overlays.

    Args:
        run: a run folder (its best weights) or a `.safetensors` file.
        source: an image, a folder of images, a `.zip` or `.tar` of them, a pattern in quotes, a
            `.txt` file (or `@file`) with a path on each line, a video, or a camera (`camera:0`,
            until Ctrl-C).
        out: folder to write into; `manifest.jsonl` there tells what was done.
        outputs: any of `palette`, `ids`, `color`, `overlay`, `confidence` (PNG), `rle` (COCO JSON)
            and `polygons` (GeoJSON in pixels); `palette` if not given. The `overlay` of a video is
            a video. Of point clouds `ply` (if not given), `npy` and `txt`: a label per point.
        overwrite: replace results of an earlier call.
        resume: continue a call that was killed; leaves out what it has done.
        max_pixels: larger images count as failed and are not decoded.
        max_frames: of a video or a camera, frames after these are left out.
        device: e.g. `cpu` or `cuda:0`; a GPU if there is one.
        crf: refine masks by the dense CRF that `semseg crf-search` tuned for this run.
        backend: what computes the network: `eager` (PyTorch, as in validation), `fused`,
            `compile`, `openvino` or `onnxruntime`, which are proved equal on the first image of
            each size; `auto` is the fastest that is installed, for sizes of 20 images or more.
        precision: `fp32`, `bf16`, `fp16`, or `auto`: bf16 where 99.9 % of the labels stay.
        tile: height and width of tiles that larger images are cut into.
        overlap: share of a tile that the next one covers too.
        blend: how tiles are put together: `gaussian`, `cosine` or `none`.
        tta: several looks at each image, whose mean counts: any of `hflip`, `vflip`, `rot90`,
            `rot180`, `rot270` (each doubles the views) and `scale=0.75,1.25`.
        tta_mean: of `probabilities` or `logits`.
        raster: the source is a TIFF, GeoTIFF or Zarr larger than the memory, and `out` the TIFF
            to write; the same call again goes on after a kill.
    """
    from semseg.predict import Predictor, Views, predict_files
    from semseg.predict.frames import is_video
    from semseg.predict.opening import takes_clouds
    from semseg.predict.refine import read_crf
    from semseg.predict.video import predict_video

    if takes_clouds(run):
        return _clouds(run, source, out, outputs or ("ply",), device, overwrite)
    views = Views.parse(tta, tta_mean)
    cut = {"tile": DEFAULT_TILE if raster and tile is None else tile, "overlap": overlap}
    how: dict[str, Any] = {"backend": backend, "precision": precision, "blend": blend, **cut}
    predictor = Predictor(run, device, crf=read_crf(run) if crf else None, views=views, **how)
    if len(views) > 1:
        sys.stderr.write(f"semseg: {len(views)} views of each image ({views})\n")
    if raster:
        return _raster(predictor, source, out, overwrite)
    video = is_video(source)
    call = partial(predict_video, max_frames=max_frames) if video else predict_files
    what = "frames" if video else "images"
    given = (predictor, source, out, outputs or ("palette",), overwrite)
    with paced(what) as on_progress:
        summary = call(*given, on_progress, resume=resume, max_pixels=max_pixels)
    return _tell(summary, predictor.notes, what)


def _clouds(
    run: Path, source: str, out: Path, outputs: tuple[str, ...], device: str | None, overwrite: bool
) -> int:
    from semseg.predict.point_files import predict_clouds
    from semseg.predict.points import PointPredictor

    records = predict_clouds(PointPredictor(run, device), source, out, outputs, overwrite)
    failed = [record["error"] for record in records if "error" in record]
    for error in failed:
        sys.stderr.write(f"semseg: {' '.join(error.split())}\n")
    output().print(
        f"{len(records) - len(failed)} clouds, {len(failed)} failed; written to {out}",
        soft_wrap=True,
    )
    return EXIT_SOME_FAILED if failed else 0


def _raster(predictor: Predictor, source: str, out: Path, overwrite: bool) -> int:
    from semseg.predict import predict_large

    with paced("tiles") as on_progress:
        summary = predict_large(
            predictor, source, out, overwrite=overwrite, on_progress=on_progress
        )
    kept = f", {summary.resumed} rows were done before" if summary.resumed else ""
    output().print(
        f"{summary.height} x {summary.width} pixels in {summary.tiles} tiles and "
        f"{summary.seconds:.1f} s{kept}; written to {summary.out}",
        soft_wrap=True,
    )
    return 0


def _tell(summary: Summary, notes: list[str], what: str) -> int:
    for note in notes:
        sys.stderr.write(f"semseg: {note}\n")
    for failure in summary.failures:
        sys.stderr.write(f"semseg: {' '.join(failure.message.split())}\n")
    output().print(_told(summary, what), soft_wrap=True)
    return EXIT_SOME_FAILED if summary.failures else 0


def _told(summary: Summary, what: str) -> str:
    speed = (summary.images + len(summary.failures)) / max(summary.seconds, 1e-9)
    kept = f", {summary.kept} were done before" if summary.kept else ""
    return (
        f"{summary.images} {what} in {summary.seconds:.1f} s ({speed:.1f} {what}/s), "
        f"{len(summary.failures)} failed{kept}; written to {summary.out}"
    )
