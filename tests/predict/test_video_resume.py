"""A call on a video that was stopped, given again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semseg.core.checks import InputError
from semseg.predict import Predictor, predict_files
from semseg.predict.video import predict_video
from tests.predict.test_resume import content
from tests.predict.test_video import write_clip

av = pytest.importorskip("av", reason="needs PyAV: pip install 'semseg[video]'")


def stop(predictor: Predictor, clip: Path, out: Path, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Stop a call after five frames; return what a whole call leaves."""

    def interrupt(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    predict_video(predictor, clip, out.parent / "whole", kinds)
    with pytest.raises(KeyboardInterrupt):
        predict_video(predictor, clip, out, kinds, on_progress=interrupt)
    for name in ("settings.yaml", "000006.png"):  # as a kill leaves them
        (out / f".{name}.partial-1").write_bytes(b"half")
    return content(out.parent / "whole")


@pytest.mark.parametrize("kinds", [("ids",), ("ids", "rle")])
def test_masks_go_on(kinds: tuple[str, ...], predictor: Predictor, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "a.avi"), tmp_path / "out"
    wanted = stop(predictor, clip, out, kinds)
    folder = out / "ids" if len(kinds) > 1 else out
    (folder / "000002.png").write_bytes(b"")
    (out / ".000006.png.partial-1").rename(folder / ".000006.png.partial-1")
    summary = predict_video(predictor, clip, out, kinds, resume=True)
    assert (summary.kept, summary.images) == (4, 4)
    assert content(out) == wanted
    summary = predict_video(predictor, clip, out, kinds, resume=True)
    assert (summary.kept, summary.images) == (8, 0)
    assert content(out) == wanted


def test_an_overlay_is_made_again(predictor: Predictor, tmp_path: Path) -> None:
    """Nothing can be appended to a video; the call given again leaves the same all the same."""
    clip, out = write_clip(tmp_path / "a.avi"), tmp_path / "out"
    wanted = stop(predictor, clip, out, ("overlay", "ids"))
    (out / ".000006.png.partial-1").unlink()
    summary = predict_video(predictor, clip, out, ("overlay", "ids"), resume=True)
    assert (summary.kept, summary.images) == (0, 8)
    assert content(out) == wanted


def test_what_cannot_go_on(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    clip, out = write_clip(tmp_path / "a.avi", count=2), tmp_path / "out"
    predict_video(predictor, clip, out, ("ids",))
    before = content(out)
    other = write_clip(tmp_path / "b.avi", count=2)
    with pytest.raises(InputError, match=r"holds predictions of 1 images .* first is .*a\.avi"):
        predict_video(predictor, other, out, ("ids",), resume=True)
    with pytest.raises(InputError, match=r"holds predictions of 1 images .* first is .*a\.avi"):
        predict_files(predictor, photos, out, ("ids",), resume=True)
    with pytest.raises(InputError, match=r"other settings \(outputs: ids, now palette\)"):
        predict_video(predictor, clip, out, ("palette",), resume=True)
    assert content(out) == before
