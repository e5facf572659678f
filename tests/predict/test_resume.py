"""A call that was killed, given again: the same files as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import Preprocessing
from semseg.postprocess import DenseCRF
from semseg.predict import Predictor, predict_files
from semseg.predict.tta import Views
from tests.predict.conftest import LABELS, RULE, network, scene

KINDS = ("ids", "overlay")


def content(folder: Path) -> dict[str, Any]:
    """Every file below a folder by its name; lines of the manifest without their seconds."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        found[name] = path.read_bytes()
        if name == "manifest.jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [
                {key: value for key, value in record.items() if key != "seconds"}
                for record in json.loads(json.dumps(records).replace(str(folder), "OUT"))
            ]
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, one of them damaged; tests must not change them."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(12):
        Image.fromarray(scene(24 + i, 32, i)).save(folder / f"{i:02}.png")
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:100])
    return folder


@pytest.fixture(scope="module")
def whole(weights: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a call leaves that nobody interrupts; tests must not change it."""
    out = tmp_path_factory.mktemp("whole")
    predict_files(Predictor(weights, "cpu"), photos, out, KINDS)
    assert len(content(out)) == 2 + 2 * 11
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of that, in which only the manifest's paths are old."""
    folder = tmp_path / "out"
    shutil.copytree(whole, folder)
    text = (folder / "manifest.jsonl").read_text().replace(str(whole), str(folder))
    (folder / "manifest.jsonl").write_text(text)
    return folder


# ---- killed ----------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys
from semseg.core import files
from semseg.predict import Predictor, manifest, predict_files

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def countdown(count, function, last):
    left = [count]
    def call(*arguments):
        left[0] -= 1
        return function(*arguments) if left[0] >= 0 else last(*arguments)
    return call

def half_a_line(self, record):
    self._file.write(manifest._line(record)[:40])
    self._file.flush()
    die()

def half_a_file(path):
    os.truncate(path, 20)
    die()

def run(weights, photos, out, moment, count, resume):
    if moment == "line":
        manifest.Manifest.add = countdown(count, manifest.Manifest.add, half_a_line)
    elif moment == "file":
        files._sync = countdown(count, files._sync, half_a_file)
    else:
        files._put = countdown(count, files._put, lambda partial, path: die())
    predict_files(Predictor(weights, "cpu"), photos, out, ("ids", "overlay"), resume=resume)

for case in json.load(sys.stdin):
    child = os.fork()  # no thread runs here yet
    if not child:
        run(*case)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

MOMENTS = {
    "half of the settings": ("file", 0),
    "a mask without its name": ("rename", 1),
    "half of the first line": ("line", 0),
    "half of a mask": ("file", 14),
    "after the damaged image": ("line", 8),
    "half of the last line": ("line", 11),
}


@pytest.fixture(scope="module")
def killed(weights: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each moment, and ``twice``, which was killed again while it resumed."""
    root = tmp_path_factory.mktemp("killed")
    places = [str(weights), str(photos)]
    cases = [[*places, str(root / name), *at, False] for name, at in MOMENTS.items()]
    twice = str(root / "twice")
    cases += [[*places, twice, "line", 7, False], [*places, twice, "line", 2, True]]
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        input=json.dumps(cases),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.split() == ["-9"] * len(cases), done.stderr
    return root


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed(
    moment: str, predictor: Predictor, photos: Path, killed: Path, whole: Path
) -> None:
    out = killed / moment
    manifest = out / "manifest.jsonl"
    left = manifest.read_text().split("\n")[:-1] if manifest.exists() else []
    kept = sum("error" not in json.loads(line) for line in left)
    summary = predict_files(predictor, photos, out, KINDS, resume=True)
    assert content(out) == content(whole)
    assert (summary.kept, summary.images, len(summary.failures)) == (kept, 11 - kept, 1)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_again_while_it_resumes(
    predictor: Predictor, photos: Path, killed: Path, whole: Path
) -> None:
    """What was done before the first kill is not lost by the second."""
    out = killed / "twice"
    summary = predict_files(predictor, photos, out, KINDS, resume=True)
    # six good lines of the first call; of the second the damaged image and one more
    assert (summary.kept, summary.images) == (7, 4)
    assert content(out) == content(whole)


# ---- what is done again ----------------------------------------------------------------------


def test_nothing_is_done_twice(predictor: Predictor, photos: Path, out: Path, whole: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    seen: list[tuple[int, int]] = []
    summary = predict_files(
        predictor, photos, out, KINDS, on_progress=lambda *step: seen.append(step), resume=True
    )
    assert (summary.kept, summary.images, len(summary.failures)) == (11, 0, 1)
    assert seen == [(12, 12)]  # the damaged image alone
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == times
    assert content(out) == content(whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_kind(path: Path) -> None:
    path.write_bytes(b"GIF89a" + path.read_bytes()[6:])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [Path.unlink, cut, other_kind, empty])
def test_files_that_are_not_whole_are_written_again(
    damage: Callable[[Path], None], predictor: Predictor, photos: Path, out: Path, whole: Path
) -> None:
    damage(out / "overlay" / "07.png")
    assert predict_files(predictor, photos, out, KINDS, resume=True).images == 1
    assert content(out) == content(whole)


def test_images_that_were_changed_or_repaired_or_added(
    predictor: Predictor, tmp_path: Path
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name in ("b", "c", "d"):
        Image.fromarray(scene(20, 20)).save(folder / f"{name}.png")
    whole = (folder / "c.png").read_bytes()
    (folder / "c.png").write_bytes(whole[:60])
    (folder / "z.png").write_bytes(b"")
    predict_files(predictor, folder, out)
    (folder / "c.png").write_bytes(whole)
    Image.fromarray(scene(30, 20)).save(folder / "d.png")
    later = time.time() + 60  # clocks of file systems are coarse
    os.utime(folder / "d.png", (later, later))
    Image.fromarray(scene(40, 20)).save(folder / "a.png")
    (folder / "z.png").unlink()  # had failed: nothing is lost
    summary = predict_files(predictor, folder, out, resume=True)
    assert (summary.kept, summary.images, summary.failures) == (1, 3, ())
    records = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [(Path(r["image"]).stem, r["height"]) for r in records] == [
        ("a", 40), ("b", 20), ("c", 20), ("d", 30),
    ]  # fmt: skip
    with Image.open(out / "d.png") as written:
        assert written.size == (20, 30)


def test_where_there_is_nothing_to_resume_it_begins(
    predictor: Predictor, photos: Path, whole: Path, tmp_path: Path
) -> None:
    """So one command line does, however often a machine is taken away."""
    assert predict_files(predictor, photos, tmp_path / "out", KINDS, resume=True).kept == 0
    assert content(tmp_path / "out") == content(whole)


def test_lines_that_are_none_are_dropped(
    predictor: Predictor, photos: Path, out: Path, whole: Path
) -> None:
    manifest = out / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines()
    lines[2] = b"\0" * 50
    lines[4] = b'["a list"]'
    manifest.write_bytes(b"\n".join(lines) + b'\n{"image": "\xff')
    assert predict_files(predictor, photos, out, KINDS, resume=True).images == 2
    assert content(out) == content(whole)


def test_half_a_line_is_not_appended_to(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    """Where nothing failed the order is right, and no rewriting at the end would mend it."""
    out, good = tmp_path / "out", photos / "0[0-4].png"
    predict_files(predictor, good, out)
    wanted, manifest = content(out), out / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-50])
    assert predict_files(predictor, good, out, resume=True).kept == 4
    assert content(out) == wanted


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(predictor: Predictor, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(scene(20, 20)).save(folder / "a.png")
    os.rename(os.fsencode(folder) + b"/a.png", os.fsencode(folder) + b"/\xe9\n.png")
    assert predict_files(predictor, folder, out).images == 1
    assert os.listdir(os.fsencode(out)).count(b"\xe9\n.png") == 1
    assert predict_files(predictor, folder, out, resume=True).kept == 1


# ---- refused ---------------------------------------------------------------------------------


def refusal(
    predictor: Predictor, photos: Path, out: Path, *kinds: str, overwrite: bool = False
) -> str:
    before = content(out)
    with pytest.raises((InputError, FileError)) as caught:
        predict_files(predictor, photos, out, kinds or KINDS, overwrite, resume=True)
    assert content(out) == before
    return str(caught.value)


def test_other_settings_are_refused(predictor: Predictor, photos: Path, out: Path) -> None:
    assert refusal(predictor, photos, out, "ids", "palette") == (
        f"{out} was begun with other settings (outputs: ids overlay, now ids palette); continue it "
        "with the same ones, or choose another folder"
    )
    more = network()
    with torch.no_grad():
        next(more.parameters())[0, 0, 0, 0] += 1e-3
    text = refusal(Predictor(more, "cpu", labels=LABELS, preprocessing=RULE), photos, out)
    assert re.fullmatch(
        rf"{out} was begun with other settings \(weights: [0-9a-f]{{12}}, now [0-9a-f]{{12}}\); "
        "continue it with the same ones, or choose another folder",
        text,
    )
    rule = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.4))
    crf = DenseCRF(mix=torch.eye(5))
    other = Predictor(network(), "cpu", labels=LABELS, preprocessing=rule, crf=crf)
    assert "(other preprocessing; other crf)" in refusal(other, photos, out)
    hflip = Views(("hflip",))
    other = Predictor(network(), "cpu", labels=LABELS, preprocessing=RULE, views=hflip)
    assert "(other views)" in refusal(other, photos, out)
    other = Predictor(network(), "cpu", labels=LABELS, preprocessing=RULE, tile=1024)
    assert "(other tiling)" in refusal(other, photos, out)


def test_a_crf_can_be_continued(photos: Path, tmp_path: Path) -> None:
    for mix, kept in ((torch.eye(5), 0), (torch.eye(5), 1), (torch.eye(5) * 2, None)):
        crf = DenseCRF(mix=mix, iterations=1)
        predictor = Predictor(network(), "cpu", labels=LABELS, preprocessing=RULE, crf=crf)
        if kept is None:
            assert "(other crf)" in refusal(predictor, photos / "00.png", tmp_path, "palette")
        else:
            done = predict_files(predictor, photos / "00.png", tmp_path, resume=True)
            assert done.kept == kept


def test_other_images_are_refused(predictor: Predictor, photos: Path, out: Path) -> None:
    assert refusal(predictor, photos / "0[1-9].png", out) == (
        f"{out} holds predictions of 3 images that are not asked for now, the first is "
        f"{photos}/00.png; continue with the same images, or choose another folder"
    )


@pytest.mark.parametrize("text", [None, "- a list", "{", "\0"])
def test_settings_that_cannot_be_read(
    text: str | None, predictor: Predictor, photos: Path, out: Path
) -> None:
    settings = out / "settings.yaml"
    settings.unlink() if text is None else settings.write_text(text)
    assert refusal(predictor, photos, out) == (
        f"{settings} does not say how the predictions in {out} were made, so they cannot be "
        "continued; choose another folder, or give --overwrite to replace them"
    )


def test_resume_and_overwrite(predictor: Predictor, photos: Path, out: Path) -> None:
    assert refusal(predictor, photos, out, overwrite=True) == (
        "resume and overwrite exclude each other; give one of them"
    )


def test_the_lines_of_older_settings_never_count(
    predictor: Predictor, photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it overwrites, before the first image: nothing of the old call is left over."""

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    more = network()
    with torch.no_grad():
        next(more.parameters()).mul_(-1)
    other = Predictor(more, "cpu", labels=LABELS, preprocessing=RULE)
    with monkeypatch.context() as patch:
        patch.setattr("semseg.predict.run.Manifest", kill)
        with pytest.raises(KeyboardInterrupt):
            predict_files(other, photos, out, KINDS, overwrite=True)
    assert predict_files(other, photos, out, KINDS, resume=True).kept == 0
