"""What can be written of a prediction: one file per image and kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import InputError, unknown_name
from semseg.core.files import write_atomic
from semseg.core.labels import LabelMap
from semseg.predict import regions, render
from semseg.predict.predictor import Prediction

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Output:
    """One kind of file.

    Args:
        write: ``(file, image, pixels, prediction)``; ``image`` is the path that was predicted.
        suffix: of its files.
        begin: first bytes of every such file.
        end: last bytes of every such file.
        confidence: whether it needs the prediction's confidence.
    """

    write: Callable[[Path, Path, Pixels, Prediction], None]
    suffix: str
    begin: bytes
    end: bytes
    confidence: bool = False

    def is_whole(self, file: Path) -> bool:
        """Tell whether a file is there and neither cut short nor of another kind."""
        try:
            with file.open("rb") as opened:
                begin = opened.read(len(self.begin))
                opened.seek(-len(self.end), 2)
                return begin == self.begin and opened.read() == self.end
        except OSError:  # also where it is shorter than its end
            return False


def _png(draw: Callable[[Pixels, Prediction], Image.Image], confidence: bool = False) -> Output:
    def write(file: Path, _: Path, pixels: Pixels, prediction: Prediction) -> None:
        draw(pixels, prediction).save(file, format="PNG")

    return Output(write, ".png", b"\x89PNG\r\n\x1a\n", b"IEND\xae\x42\x60\x82", confidence)


def _confidence(_: Pixels, prediction: Prediction) -> Image.Image:
    assert prediction.confidence is not None  # needs_confidence says so
    return render.confidence_png(prediction.confidence)


def _json(suffix: str, tell: Callable[[NDArray[Any], LabelMap, str], dict[str, Any]]) -> Output:
    def write(file: Path, image: Path, _: Pixels, prediction: Prediction) -> None:
        content = tell(prediction.mask, prediction.labels, image.name)
        file.write_bytes(regions.to_json(content))

    return Output(write, suffix, b"{", b"}\n")


OUTPUTS: dict[str, Output] = {
    "palette": _png(lambda pixels, p: render.palette_png(p.mask, p.labels)),
    "ids": _png(lambda pixels, p: render.ids_png(p.mask, p.labels)),
    "color": _png(lambda pixels, p: render.color_png(p.mask, p.labels)),
    "overlay": _png(lambda pixels, p: render.overlay(pixels, p.mask, p.labels)),
    "confidence": _png(_confidence, confidence=True),
    "rle": _json(".json", regions.coco_rle),
    "polygons": _json(".geojson", regions.polygons),
}
"""The kinds, by the name they are asked for."""


def check_outputs(outputs: Sequence[str], labels: LabelMap) -> None:
    """Refuse no kind, unknown kinds, and one that cannot hold the labels.

    Raises:
        InputError: nothing is asked for, or a palette of ids above 255.
        UnknownNameError: a kind that does not exist.
    """
    if not outputs:
        raise InputError(f"no output is asked for; known: {', '.join(OUTPUTS)}")
    for kind in outputs:
        if kind not in OUTPUTS:
            raise unknown_name("output", kind, OUTPUTS)
    if "palette" in outputs and labels.palette() is None:
        raise InputError(
            "the label map has raw ids above 255, which no palette PNG holds; "
            "ask for ids or color instead of palette"
        )


def needs_confidence(outputs: Sequence[str]) -> bool:
    """Tell whether one of the kinds shows the confidence."""
    return any(OUTPUTS[kind].confidence for kind in outputs)


def output_file(out: Path, kind: str, alone: bool, name: str) -> Path:
    """Return the file of one kind: below a folder of its own, unless the kind is alone."""
    return (out if alone else out / kind) / f"{name}{OUTPUTS[kind].suffix}"


def write_output(file: Path, kind: str, image: Path, pixels: Pixels, got: Prediction) -> None:
    """Write one file, whole or not at all.

    Raises:
        FileError: it cannot be written.
    """
    write_atomic(file, partial(_fill, OUTPUTS[kind], image, pixels, got))


def _fill(output: Output, image: Path, pixels: Pixels, got: Prediction, file: Path) -> None:
    output.write(file, image, pixels, got)
