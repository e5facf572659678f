"""A video that is written frame by frame, through PyAV (``pip install 'semseg[video]'``)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from semseg.predict.frames import pyav

_CODECS = ("libx264", "mpeg4")  # H.264 if this PyAV has it
_MOST_UNITS = 65_535  # of a second, in MPEG-4
_COMMON_UNITS = 60_000  # all usual rates are whole numbers of these
_BT601 = 6  # the matrix that PyAV takes for colours; untold, players take another for large frames


class FrameWriter:
    """A video file that grows frame by frame: H.264 in MP4, or MPEG-4 where PyAV lacks it.

    Args:
        path: the file.
        size: height and width.
        rate: frames a second.
        time_base: the unit of times.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], rate: Fraction, time_base: Fraction
    ) -> None:
        self._av = pyav()
        codec = next(name for name in _CODECS if name in self._av.codecs_available)
        self._container = self._av.open(str(path), "w", format="mp4")
        self._stream = self._container.add_stream(codec, rate=rate)
        height, width = size
        self._stream.height, self._stream.width = height, width
        if codec == "libx264":
            # half as many colours need even sides; every player shows that
            self._stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
            self._stream.options = {"crf": "18"}
        else:
            self._stream.pix_fmt = "yuv420p"
            self._stream.bit_rate = 4 * height * width
            if time_base.denominator > _MOST_UNITS:
                time_base = Fraction(1, _COMMON_UNITS)
        self._unit = time_base
        self._stream.codec_context.time_base = time_base
        self._stream.codec_context.colorspace = _BT601
        self._last = -1

    def write(self, pixels: NDArray[np.uint8], time: Fraction) -> None:
        """Append a frame, ``(H, W, 3)``, that is shown ``time`` seconds after the beginning."""
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        # no two frames have one time, whatever rounding does
        self._last = frame.pts = max(round(time / self._unit), self._last + 1)
        frame.time_base = self._unit
        self._container.mux(self._stream.encode(frame))

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._last >= 0:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
