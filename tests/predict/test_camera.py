"""Cameras, for which a generated picture stands: read until told, and the files are whole."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from semseg.core.checks import FileError, InputError
from semseg.predict import Predictor, Summary, frames
from semseg.predict.video import predict_video
from tests.predict.test_video import decode, lines

av = pytest.importorskip("av", reason="needs PyAV: pip install 'semseg[video]'")


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that moves for ever, in place of cameras."""
    if "lavfi" not in av.formats_available:
        pytest.skip("this PyAV has no lavfi to stand for a camera")
    test = ("lavfi", "testsrc=size=64x48:rate=10,setpts=PTS+7")
    monkeypatch.setattr(frames, "_CAMERAS", dict.fromkeys((sys.platform, "linux"), test))


@pytest.mark.usefixtures("camera")
def test_a_camera(predictor: Predictor, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = predict_video(predictor, "camera:0", out, ("overlay",), max_frames=5)
    assert (summary.images, summary.failures) == (5, ())
    assert [r["time"] for r in lines(out)] == [i / 10 for i in range(5)]  # from its first frame
    assert len(decode(out / "camera0.mp4")) == 5
    with pytest.raises(InputError) as caught:
        predict_video(predictor, "camera:0", out, resume=True)
    assert str(caught.value) == "a camera cannot be continued; leave --resume out"


@pytest.mark.usefixtures("camera")
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_ctrl_c_ends_a_camera_in_good_order(predictor: Predictor, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert total == 0
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    out = tmp_path / "out"
    summary = predict_video(predictor, "camera:0", out, on_progress=interrupt)
    assert 3 <= summary.images < 12
    assert len(decode(out / "camera0.mp4")) == summary.images == len(lines(out))
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("camera")
def test_a_camera_in_another_thread(predictor: Predictor, tmp_path: Path) -> None:
    done: list[Summary] = []

    def run() -> None:
        done.append(predict_video(predictor, "camera:0", tmp_path / "out", max_frames=2))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done[0].images == 2


def test_no_camera(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(FileError) as caught:
        predict_video(predictor, "camera:/dev/video97", tmp_path / "out")
    assert str(caught.value).startswith("camera /dev/video97 cannot be opened: ")
    assert str(caught.value).endswith("; is it plugged in and free?")
