"""Videos and cameras: every frame once and in its time, damage told, and little in memory."""

from __future__ import annotations

import json
import struct
import sys
import weakref
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.data.images import read_mask
from semseg.predict import Predictor, frames, render
from semseg.predict.frames import FrameReader, is_video
from semseg.predict.video import predict_video
from semseg.predict.video_writer import FrameWriter
from tests.predict.conftest import LABELS, RULE, network, scene

av = pytest.importorskip("av", reason="needs PyAV: pip install 'semseg[video]'")

SIZE = (48, 64)


def write_clip(
    path: Path, codec: str = "mpeg4", count: int = 8, size: tuple[int, int] = SIZE
) -> Path:
    """A clip of 10 frames a second, of which every frame can be told from the others."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 2_000_000
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(scene(*size, i), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode(path: Path) -> list[tuple[Fraction, np.ndarray]]:
    """Time and pixels of each frame, by PyAV alone."""
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24"))
            for frame in container.decode(video=0)
        ]


def coarse(pixels: np.ndarray) -> np.ndarray:
    """Means of squares of 16 x 16 pixels."""
    height, width = SIZE[0] // 16, SIZE[1] // 16
    means: np.ndarray = pixels.reshape(height, 16, width, 16, 3).mean((1, 3))
    return means


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# ---- what is written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")]
)
def test_masks_and_overlay(name: str, codec: str, predictor: Predictor, tmp_path: Path) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    clip, out = write_clip(tmp_path / name, codec), tmp_path / "out"
    seen: list[tuple[int, int]] = []
    summary = predict_video(
        predictor, clip, out, ("ids", "overlay"), on_progress=lambda *step: seen.append(step)
    )
    assert (summary.images, summary.failures) == (8, ())
    assert seen == [(i, 8) for i in range(1, 9)]
    masks = [f"ids/{i:06}.png" for i in range(8)]
    assert tree(out) == [*masks, "manifest.jsonl", "overlay/a.mp4", "settings.yaml"]
    given, shown = decode(clip), decode(out / "overlay" / "a.mp4")
    assert [t for t, _ in given] == [Fraction(i, 10) for i in range(8)]
    assert [t for t, _ in shown] == [t for t, _ in given]
    for i, (_, pixels) in enumerate(given):
        mask = LABELS.encode(read_mask(out / masks[i]))
        np.testing.assert_array_equal(mask, predictor(pixels).mask)
        wanted = np.asarray(render.overlay(pixels, mask, LABELS)).astype(int)
        assert shown[i][1].shape == wanted.shape
        # lossy, but nearer to its own frame than to any other, and of the same colours
        away = [np.abs(one.astype(int) - wanted).mean() for _, one in shown]
        assert np.argmin(away) == i
        assert np.abs(coarse(shown[i][1]) - coarse(wanted)).mean() < 5


def test_manifest(predictor: Predictor, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "a.avi"), tmp_path / "out"
    predict_video(predictor, clip, out, ("overlay",))
    assert tree(out) == ["a.mp4", "manifest.jsonl", "settings.yaml"]
    records = lines(out)
    assert [r["frame"] for r in records] == list(range(8))
    assert [r["time"] for r in records] == [i / 10 for i in range(8)]
    assert records[3]["outputs"] == {"overlay": str(out / "a.mp4")}
    assert {(r["image"], r["height"], r["width"]) for r in records} == {(str(clip), *SIZE)}
    assert all(r["notes"] == [] and 0 < r["seconds"] < 10 for r in records)


def test_frames_have_names_in_run_lengths(predictor: Predictor, tmp_path: Path) -> None:
    predict_video(predictor, write_clip(tmp_path / "a.avi", count=2), tmp_path / "out", ("rle",))
    found = json.loads((tmp_path / "out" / "000001.json").read_text())
    assert found["images"][0]["file_name"] == "000001.png"


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("size", [(48, 64), (33, 51)])
def test_size_and_times_of_what_is_written(
    size: tuple[int, int], codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd sizes stay; uneven times stay, to the unit where MPEG-4 can tell them."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    monkeypatch.setattr("semseg.predict.video_writer._CODECS", (codec,))
    times = [Fraction(n, 90_000) for n in (0, 3003, 6006, 15_000, 15_000, 180_000)]
    path = tmp_path / "a.mp4"
    with FrameWriter(path, size, Fraction(30_000, 1001), Fraction(1, 90_000)) as writer:
        for i, time in enumerate(times):
            writer.write(scene(*size, i), time)
    shown = decode(path)
    assert {pixels.shape for _, pixels in shown} == {(*size, 3)}
    late = [float(abs(a - b)) for (a, _), b in zip(shown, times, strict=True)]
    assert max(late) < 2 / 60_000  # of two frames with one time the second is a unit later
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec.name == codec.replace("libx264", "h264")
        if codec == "libx264":  # the other one cannot tell
            assert next(container.decode(video=0)).colorspace == 6  # what the colours are in


def test_a_gif_with_frames_is_a_video(predictor: Predictor, tmp_path: Path) -> None:
    one, many = tmp_path / "one.gif", tmp_path / "many.gif"
    pictures = [Image.fromarray(scene(24, 32, i)) for i in range(3)]
    pictures[0].save(one)
    pictures[0].save(many, save_all=True, append_images=pictures[1:], duration=200)
    assert [is_video(one), is_video(many), is_video(tmp_path / "no.gif")] == [False, True, False]
    predict_video(predictor, many, tmp_path / "out", ("ids",))
    assert [r["time"] for r in lines(tmp_path / "out")][:3] == [0, 0.2, 0.4]


def test_grey_networks_take_videos(tmp_path: Path) -> None:
    predictor = Predictor(
        network(in_channels=1), "cpu", labels=LABELS, preprocessing=RULE.for_channels(1)
    )
    clip = write_clip(tmp_path / "a.avi", count=2)
    predict_video(predictor, clip, tmp_path / "out", ("ids",))
    mask = LABELS.encode(read_mask(tmp_path / "out" / "000000.png"))
    grey = np.asarray(Image.fromarray(decode(clip)[0][1]).convert("L"))
    np.testing.assert_array_equal(mask, predictor(grey).mask)


def test_a_phone_held_upright(predictor: Predictor, tmp_path: Path) -> None:
    """The matrix of the track says a quarter turn clockwise, as phones write it."""
    clip = write_clip(tmp_path / "a.mp4", count=2)
    stored = decode(clip)[0][1]
    data = bytearray(clip.read_bytes())
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, SIZE[0] << 16, 0, 1 << 30]
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *matrix)
    clip.write_bytes(data)
    predict_video(predictor, clip, tmp_path / "out", ("ids", "overlay"))
    mask = LABELS.encode(read_mask(tmp_path / "out" / "ids" / "000000.png"))
    np.testing.assert_array_equal(mask, predictor(stored[::-1].transpose(1, 0, 2)).mask)
    assert lines(tmp_path / "out")[0]["notes"] == ["turned upright"]
    assert decode(tmp_path / "out" / "overlay" / "a.mp4")[0][1].shape == (64, 48, 3)


# ---- damage ----------------------------------------------------------------------------------


def packets(path: Path) -> list[tuple[int, int]]:
    """Place and length of each packet in a file."""
    with av.open(str(path)) as container:
        return [(p.pos, p.size) for p in container.demux(video=0) if p.size]


def test_a_damaged_frame(predictor: Predictor, tmp_path: Path) -> None:
    if "mjpeg" not in av.codecs_available:
        pytest.skip("this PyAV has no mjpeg")
    clip = tmp_path / "a.avi"
    with av.open(str(clip), "w") as container:  # every frame stands for itself
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuvj420p"
        for i in range(8):
            frame = av.VideoFrame.from_ndarray(scene(*SIZE, i), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    good = decode(clip)
    data = bytearray(clip.read_bytes())
    place, length = packets(clip)[3]
    start = data.index(b"\xff\xd8", place)
    data[start : start + length] = bytes(length)
    clip.write_bytes(data)
    out = tmp_path / "out"
    summary = predict_video(predictor, clip, out, ("ids", "overlay"))
    assert (summary.images, len(summary.failures)) == (7, 1)
    message = summary.failures[0].message
    assert message.startswith(f"{clip}: frame 3 at 0.300 s: damaged: ")
    records = lines(out)
    assert records[3] == {"image": str(clip), "frame": 3, "time": 0.3, "error": message}
    assert [r["time"] for r in records] == [i / 10 for i in range(8)]
    shown = decode(out / "overlay" / "a.mp4")
    assert [t for t, _ in shown] == [Fraction(i, 10) for i in range(8) if i != 3]
    for i in (2, 4, 7):  # frames keep their numbers
        mask = LABELS.encode(read_mask(out / "ids" / f"{i:06}.png"))
        np.testing.assert_array_equal(mask, predictor(good[i][1]).mask)
    assert not (out / "ids" / "000003.png").exists()


class Guessed:
    """A frame of which the decoder says that it is not whole."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self.is_corrupt = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._frame, name)


def test_what_the_decoder_guesses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders hide damage by repeating what was there; that is no frame to be predicted."""
    reader = FrameReader(str(write_clip(tmp_path / "a.avi")))
    pictures = list(reader._container.decode(video=0))
    packet = type("Packet", (), {"time_base": None, "decode": lambda self: [Guessed(pictures[1])]})
    fake = type("Fake", (), {"demux": lambda self, stream: iter([packet()])})()
    reader.close()
    monkeypatch.setattr(reader, "_container", fake)
    (frame,) = reader
    assert (frame.number, frame.time, frame.pixels) == (0, Fraction(1, 10), None)
    assert frame.error == "damaged: the decoder had to guess parts of it"


def test_a_video_that_is_cut_off(predictor: Predictor, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.avi")
    place, _ = packets(clip)[5]
    clip.write_bytes(clip.read_bytes()[:place])
    summary = predict_video(predictor, clip, tmp_path / "out", ("ids",))
    assert summary.images == 5


@pytest.mark.parametrize("content", [b"", b"no video"])
def test_what_is_no_video(content: bytes, predictor: Predictor, tmp_path: Path) -> None:
    clip = tmp_path / "a.mp4"
    clip.write_bytes(content)
    with pytest.raises(FileError) as caught:
        predict_video(predictor, clip, tmp_path / "out")
    assert str(caught.value) == (
        f"video {clip} cannot be opened: Invalid data found when processing input; replace the file"
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileError, match="cannot be opened: No such file or directory"):
        predict_video(predictor, tmp_path / "b.mp4", tmp_path / "out")


def test_only_sound(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(InputError) as caught:
        predict_video(predictor, path, tmp_path / "out")
    assert str(caught.value) == f"{path} has no pictures, only sound; give a video"


def test_frames_that_are_too_large(predictor: Predictor, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.avi", count=1)
    with pytest.raises(InputError, match=r"48 x 64 pixels .* the limit is 3,071; .* --max-pixels"):
        predict_video(predictor, clip, tmp_path / "out", max_pixels=3071)
    assert predict_video(predictor, clip, tmp_path / "out", max_pixels=3072).images == 1


def test_a_network_that_fails_everywhere(tmp_path: Path) -> None:
    import torch

    model = network()
    with torch.no_grad():
        list(model.parameters())[-1].fill_(torch.nan)
    predictor = Predictor(model, "cpu", labels=LABELS, preprocessing=RULE)
    clip = write_clip(tmp_path / "a.avi", count=2)
    with pytest.raises(InputError) as caught:
        predict_video(predictor, clip, tmp_path / "out")
    assert str(caught.value).startswith(
        f"no frame of {clip} could be predicted: {clip}: frame 0 at 0.000 s: the network's output "
    )
    assert tree(tmp_path / "out") == ["manifest.jsonl", "settings.yaml"]


# ---- where it writes, and how much it holds --------------------------------------------------


def test_results_are_not_replaced_unless_told(predictor: Predictor, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "a.avi", count=2), tmp_path / "out"
    predict_video(predictor, clip, out)
    with pytest.raises(InputError, match="already holds predictions"):
        predict_video(predictor, clip, out)
    assert predict_video(predictor, clip, out, overwrite=True, max_frames=1).images == 1
    assert len(decode(out / "a.mp4")) == len(lines(out)) == 1
    with pytest.raises(InputError, match="holds the images themselves"):
        predict_video(predictor, clip, tmp_path)
    with pytest.raises(InputError, match="max_frames is at least 1, got 0"):
        predict_video(predictor, clip, tmp_path / "b", max_frames=0)


def test_a_call_that_breaks_off_leaves_no_half_video(predictor: Predictor, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "a.avi"), tmp_path / "out"

    def stop(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_video(predictor, clip, out, on_progress=stop)
    assert tree(out) == ["manifest.jsonl", "settings.yaml"]


def test_few_frames_are_in_memory(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most: list[int] = []

    class Watched(frames.Frame):
        def __init__(self, *values: Any, **named: Any) -> None:
            super().__init__(*values, **named)
            if self.pixels is not None:
                object.__setattr__(self, "pixels", self.pixels.view(Tracked))

    class Tracked(np.ndarray):
        def __array_finalize__(self, other: Any) -> None:
            alive.add(self)

        __hash__ = object.__hash__  # type: ignore[assignment]

    monkeypatch.setattr(frames, "Frame", Watched)
    monkeypatch.setattr(
        "semseg.predict.video.image_array", lambda image, *_: np.asarray(image).view(Tracked)
    )
    clip = write_clip(tmp_path / "a.avi", count=40)
    predict_video(predictor, clip, tmp_path / "out", on_progress=lambda *_: most.append(len(alive)))
    assert 0 < max(most[20:]) < 15


def test_without_pyav(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError) as caught:
        predict_video(predictor, "a.mp4", tmp_path / "out")
    assert str(caught.value) == (
        "videos and cameras are read with PyAV; pip install 'semseg[video]'"
    )
