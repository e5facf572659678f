"""A trained network over an image larger than the memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from torch import Tensor

from semseg.core.checks import InputError
from semseg.predict.predictor import Predictor
from semseg.predict.raster_files import open_raster
from semseg.predict.rasters import RasterSummary, predict_raster
from semseg.predict.settings import settings_of_call


def predict_large(
    predictor: Predictor,
    source: str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> RasterSummary:
    """Predict a TIFF, GeoTIFF or Zarr of any size window by window, and write a TIFF of raw ids.

    The predictor's tiles and views are used, those of about 1024 if it has none. A call that was
    killed goes on when it is given again; another network or setting is refused. See
    :func:`semseg.predict.rasters.predict_raster`.

    Args:
        predictor: the network.
        source: the image.
        out: the file to write.
        overwrite: replace a file of an earlier call.
        on_progress: called with the number of tiles done and of all.

    Raises:
        FileError: the image is missing or damaged, or the result cannot be written.
        InputError: a predictor with a CRF, bands that do not fit, ``out`` exists, a stopped call
            had other settings, or a package is missing.
    """
    if predictor.crf is not None:
        raise InputError(
            "a dense CRF sees the image as a whole; predict a raster without it, or cut it up"
        )
    with closing(open_raster(source, predictor.channels)) as raster:
        predictor.expect([raster.size], in_tiles=True)
    scores = predictor.views.apply(predictor.scores)

    def run(images: Tensor) -> Tensor:
        # one window at a time, so that an interrupt ends the call at once
        return predictor.in_thread(lambda: scores(images))

    return predict_raster(
        run,
        predictor.preprocessing,
        predictor.labels,
        source,
        out,
        predictor.tiling,
        num_classes=predictor.model.config.num_classes,
        device=predictor.device,
        made_of=settings_of_call(predictor, ()),
        overwrite=overwrite,
        on_progress=on_progress,
    )
