"""Frames of videos and cameras, through PyAV (``pip install 'semseg[video]'``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from signal import SIGINT, signal
from threading import Event, current_thread, main_thread
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from semseg.core.checks import FileError, InputError

Pixels = NDArray[np.uint8]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".ts")
"""Files that :func:`is_video` takes for videos by their names."""

_EVERY_SECOND = 25  # frames, where a file does not say
_CAMERAS = {  # format and name of camera {}, by platform
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}"),
    "win32": ("dshow", "video={}"),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, or what came in its place.

    Args:
        number: from 0, failed frames included.
        time: seconds since the beginning.
        pixels: ``(H, W, 3)``, upright; ``None`` where the frame is damaged.
        error: what is wrong then.
        turned: whether it was stored another way round.
    """

    number: int
    time: Fraction
    pixels: Pixels | None = None
    error: str = ""
    turned: bool = False


class FrameReader:
    """Frames of a video file or a camera, one after the other.

    Args:
        source: a file, or ``camera:0``; other names than numbers are those of the system
            (``camera:/dev/video2``).
        platform: as ``sys.platform`` says.

    Raises:
        FileError: the source cannot be opened.
        InputError: it shows no pictures, or PyAV is not installed.
    """

    def __init__(self, source: str, platform: str = "linux") -> None:
        self._av = pyav()
        camera = camera_of(source)
        self.live = camera is not None
        self._source = source
        try:
            if camera is None:
                self._container = self._av.open(source)
            else:
                kind, name = _CAMERAS.get(platform, _CAMERAS["linux"])
                name = name.format(camera) if camera.isdigit() else camera
                self._container = self._av.open(name, format=kind)
        except (self._av.FFmpegError, OSError, ValueError) as error:
            what = "camera" if self.live else "video"
            raise FileError(
                f"{what} {source.removeprefix('camera:')} cannot be opened: {_reason(error)}; "
                + ("is it plugged in and free?" if self.live else "replace the file")
            ) from error
        if not self._container.streams.video:
            self.close()
            raise InputError(f"{source} has no pictures, only sound; give a video")
        self._stream = self._container.streams.video[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as stored."""
        return self._stream.codec_context.height, self._stream.codec_context.width

    @property
    def rate(self) -> Fraction:
        """Frames a second."""
        return Fraction(
            self._stream.average_rate or self._stream.guessed_rate or Fraction(_EVERY_SECOND)
        )

    @property
    def time_base(self) -> Fraction:
        """The unit in which the source tells times."""
        return Fraction(self._stream.time_base or 1 / self.rate)

    @property
    def count(self) -> int:
        """About how many frames there are; 0 where nobody knows."""
        if self.live:
            return 0
        if self._stream.frames:
            return int(self._stream.frames)
        seconds = Fraction(self._container.duration or 0, self._av.time_base)
        return max(0, round(seconds * self.rate))

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames; a damaged one has no pixels, and the ones after it are read."""
        start: Fraction | None = None
        time = -1 / self.rate
        for number, (picture, at, error) in enumerate(self._pictures()):
            if at is None:  # some containers keep no times
                time += 1 / self.rate
            else:
                if start is None:  # the clock of a camera began long ago
                    start = at if self.live else Fraction(0)
                time = at - start
            if picture is None:
                yield Frame(number, time, error=error)
            else:
                pixels, turned = _upright(picture)
                yield Frame(number, time, pixels, turned=turned)

    def close(self) -> None:
        """Let go of the file or the camera."""
        self._container.close()

    def _pictures(self) -> Iterator[tuple[Any, Fraction | None, str]]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (self._av.FFmpegError, OSError) as error:  # what follows cannot be found
                yield None, None, f"the rest cannot be read: {_reason(error)}"
                return
            unit = packet.time_base or self.time_base
            try:
                pictures = packet.decode()
            except (self._av.FFmpegError, OSError, ValueError) as error:
                at = None if packet.pts is None else packet.pts * unit
                yield None, at, f"damaged: {_reason(error)}"
                continue
            for picture in pictures:
                at = None if picture.pts is None else picture.pts * picture.time_base
                if picture.is_corrupt:
                    yield None, at, "damaged: the decoder had to guess parts of it"
                else:
                    yield picture, at, ""


def is_video(source: str | Path) -> bool:
    """Tell whether a source is a camera, a video file or a GIF with several frames.

    Example:
        >>> is_video("camera:0"), is_video("clip.MP4"), is_video("photo.jpg")
        (True, True, False)
    """
    if camera_of(str(source)) is not None or Path(source).suffix.lower() in VIDEO_SUFFIXES:
        return True
    if Path(source).suffix.lower() != ".gif":
        return False
    try:
        with Image.open(source) as image:
            return getattr(image, "n_frames", 1) > 1
    except OSError:
        return False


@contextmanager
def ends_when_interrupted(live: bool) -> Iterator[Event]:
    """Let the first Ctrl-C end a camera in good order, and the second one as ever."""
    stop = Event()

    def end(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if not live or current_thread() is not main_thread():  # only that one may handle signals
        yield stop
        return
    before = signal(SIGINT, end)
    try:
        yield stop
    finally:
        signal(SIGINT, before)


def pyav() -> Any:
    """Return PyAV.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module("av")
    except ImportError as error:
        raise InputError(
            "videos and cameras are read with PyAV; pip install 'semseg[video]'"
        ) from error


def camera_of(source: str) -> str | None:
    """Return number or name of a camera, or ``None`` for what is none.

    Example:
        >>> camera_of("camera:0"), camera_of("clip.mp4")
        ('0', None)
    """
    return source.partition(":")[2] if source.startswith("camera:") else None


def _upright(picture: Any) -> tuple[Pixels, bool]:
    pixels = picture.to_ndarray(format="rgb24")
    turns = round(picture.rotation / 90) % 4  # counterclockwise, as numpy turns
    return (np.ascontiguousarray(np.rot90(pixels, turns)), True) if turns else (pixels, False)


def _reason(error: BaseException) -> str:
    """Return an error's text without number and place, which say nothing to a user."""
    return getattr(error, "strerror", None) or str(error)
