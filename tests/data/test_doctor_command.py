"""The command, its files, the quick form, and the real data where they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.cli import main
from semseg.core.checks import FileError, SettingError, UnknownNameError
from semseg.data import build_dataset
from semseg.data.base import CachedDataset
from semseg.data.doctor import diagnose
from semseg.data.doctor.quick import glance

REAL = Path(__file__).parents[3] / "shared/data"

Miniature = Callable[[str], Path | None]


@pytest.fixture
def root(miniature: Miniature) -> Path:
    folder = miniature("folder")
    assert folder is not None
    return folder


def test_sound_folder_leaves_status_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(root), "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("folder: 3 train + 3 val samples, 0 errors, 0 warnings, 0 notes; ")


def test_errors_leave_status_1_and_three_files(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = root / "images/train/train_1.png"
    damaged.write_bytes(b"")
    out = tmp_path / "out"
    assert main(["doctor", str(root), "--workers", "2", "--out", str(out)]) == 1
    text = capsys.readouterr().out
    assert f"error: 1 image file without a byte ({damaged} has no bytes; write it again" in text
    assert "[empty_file]" in text
    data = json.loads((out / "doctor.json").read_text())
    assert data["findings"][0]["check"] == "empty_file"
    assert data["findings"][0]["files"] == [str(damaged)]
    partner = root / "masks/train/train_1.png"
    assert (out / "quarantine.txt").read_text() == f"{damaged}\n{partner}\n"
    html = (out / "doctor.html").read_text()
    assert "without a byte" in html
    assert "data:image/jpeg;base64," in html
    assert "http" not in html.partition("</style>")[2].replace("https://", "")


def test_warnings_leave_status_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(root / "images/train/train_1.png")
    assert main(["doctor", str(root), "--workers", "0"]) == 0
    assert "warning: 1 image all black" in capsys.readouterr().out


def test_json_on_stdout(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--json", "--workers", "0", "--split", "val", "--settings.channels", "1"]
    assert main(["doctor", str(root), *arguments]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data["splits"]) == ["val"]
    assert len(data["splits"]["val"]["mean"]) == 1


def test_named_dataset_with_root(miniature: Miniature, capsys: pytest.CaptureFixture[str]) -> None:
    root = miniature("camvid")
    assert main(["doctor", "camvid", "--root", str(root), "--workers", "0"]) == 0
    assert "camvid: 3 train + 3 val samples, 0 errors" in capsys.readouterr().out


def test_numbers_of_a_split(root: Path) -> None:
    facts = diagnose("folder", root).splits["train"]
    dataset = build_dataset("folder", "train", root)
    masks = np.concatenate([dataset[i].mask.numpy().ravel() for i in range(3)])
    images = np.concatenate([dataset[i].image.reshape(3, -1).numpy() for i in range(3)], axis=1)
    counts = np.bincount(masks, minlength=256)
    assert facts.pixels == counts[:2].tolist()
    assert facts.ignored == counts[255]
    assert facts.images == [3, 3]
    assert facts.sizes == [((5, 8), 1), ((6, 8), 1), ((7, 8), 1)]
    share = counts[:2] / counts[:2].sum()
    np.testing.assert_allclose(facts.enet or [], 1 / np.log(1.02 + share), atol=1e-4)
    of_images = counts[:2] / masks.size
    median = np.median(of_images) / of_images
    np.testing.assert_allclose(facts.median_frequency or [], median, atol=1e-4)
    np.testing.assert_allclose(facts.mean, images.mean(axis=1) / 255, atol=1e-4)
    np.testing.assert_allclose(facts.std, images.std(axis=1) / 255, atol=1e-4)


def test_workers_and_order_change_nothing(root: Path) -> None:
    for i in range(40):
        for kind in ("images", "masks"):
            data = (root / f"{kind}/val/val_0.png").read_bytes()
            (root / f"{kind}/val/more_{i}.png").write_bytes(data)
    calls: list[tuple[int, int]] = []
    alone = diagnose("folder", root, on_progress=lambda *done: calls.append(done))
    both = diagnose("folder", root, workers=2)
    assert calls == [(16, 46), (32, 46), (46, 46)]
    assert alone.findings == both.findings
    assert alone.splits == both.splits


def test_mistakes_of_the_caller(root: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown dataset 'camvit'; did you mean 'camvid'"):
        diagnose("camvit", root)
    with pytest.raises(UnknownNameError, match="unknown split of folder 'vall'"):
        diagnose("folder", root, splits=["vall"])
    with pytest.raises(FileError, match=r"dataset root .*none is no folder; give the one with"):
        diagnose("folder", root / "none")
    assert main(["doctor", str(root), "--workers", "0", "--colour.x", "1"]) == 2


def test_setting_that_does_not_exist(root: Path) -> None:
    with pytest.raises(SettingError, match="folder has no setting 'chanels'"):
        diagnose("folder", root, settings={"chanels": 1})


def test_quick_form_in_one_line(root: Path) -> None:
    splits = [build_dataset("folder", split, root) for split in ("train", "val")]
    assert glance(*splits).startswith("doctor: 6 samples and 6 headers in ")
    assert glance(*splits).endswith(" s: nothing found")
    mask = root / "masks/train/train_1.png"
    Image.fromarray(np.full((6, 8), 77, np.uint8)).save(mask)
    line = glance(*splits)
    assert "\n" not in line
    assert ": 1 error; first: 1 mask with ids that the classes do not list (77; " in line
    assert line.endswith(f"{mask} [unknown_ids]; semseg doctor looks at all")


def test_quick_form_of_kept_and_made_samples(root: Path) -> None:
    kept = CachedDataset(build_dataset("folder", "train", root))
    assert "3 samples and 3 headers" in glance(kept)
    made = build_dataset("synthetic", "val", size=(32, 48), length=5)
    assert "5 samples and 0 headers" in glance(made)


def real(folder: str) -> pytest.MarkDecorator:
    there = (REAL / folder).is_dir()
    return pytest.mark.skipif(not there, reason=f"{REAL / folder} is not there")


@pytest.mark.parametrize(
    ("name", "folder", "truly"),
    [
        # nothing is wrong with these
        pytest.param("isbi2012", "isbi2012", [], marks=real("isbi2012")),
        pytest.param("drive", "drive", [], marks=real("drive")),
        # a few images have not all classes, and a sample not all splits
        pytest.param(
            "ade20k",
            "samples/ade20k/ADEChallengeData2016",
            ["absent_class", "absent_class"],
            marks=real("samples/ade20k"),
        ),
        pytest.param("davis", "samples/davis", ["not_opened"], marks=real("samples/davis")),
    ],
)
def test_real_data_have_no_more_than_is_truly_there(
    name: str, folder: str, truly: list[str]
) -> None:
    found = diagnose(name, REAL / folder)
    assert [finding.check for finding in found.findings] == truly


@pytest.mark.slow
@real("camvid")
def test_camvid_is_sound() -> None:
    found = diagnose("camvid", REAL / "camvid", workers=2)
    assert found.findings == ()
    assert [facts.samples for facts in found.splits.values()] == [367, 101]


@real("camvid")
def test_quick_form_is_quick() -> None:
    import time

    splits = [build_dataset("camvid", split, REAL / "camvid") for split in ("train", "val")]
    started = time.process_time()
    assert glance(*splits).endswith("nothing found")
    assert time.process_time() - started < 2
