"""Folders in, folders out: names, manifest, failures, and the score of what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semseg.core.checks import FileError, InputError, UnknownNameError
from semseg.core.labels import LabelMap
from semseg.data.images import read_mask
from semseg.metrics import ConfusionMatrix
from semseg.predict import Predictor, predict_files
from semseg.predict.outputs import OUTPUTS
from tests.predict.conftest import LABELS, RULE, network, scene


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_one_kind_has_plain_names(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    summary = predict_files(predictor, photos, out)
    assert (summary.images, summary.failures, summary.out) == (3, (), out)
    assert tree(out) == ["manifest.jsonl", "p0.png", "p1.png", "p2.png", "settings.yaml"]
    for i in range(3):
        prediction = predictor(photos / f"p{i}.png")
        with Image.open(out / f"p{i}.png") as written:
            assert written.mode == "P"
            np.testing.assert_array_equal(np.asarray(written), LABELS.decode(prediction.mask))


def test_several_kinds_have_folders(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(predictor, photos, out, outputs=tuple(OUTPUTS))
    suffixes = {"rle": "json", "polygons": "geojson"}
    wanted = [f"{kind}/p{i}.{suffixes.get(kind, 'png')}" for kind in OUTPUTS for i in range(3)]
    assert tree(out) == sorted([*wanted, "manifest.jsonl", "settings.yaml"])
    prediction = predictor(photos / "p0.png", confidence=True)
    assert prediction.confidence is not None
    grey = np.rint(prediction.confidence * 255)
    with Image.open(out / "confidence" / "p0.png") as written:
        np.testing.assert_allclose(np.asarray(written), grey, atol=1)
    np.testing.assert_array_equal(
        read_mask(out / "ids" / "p0.png"), read_mask(out / "palette" / "p0.png")
    )


def test_manifest(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    Image.fromarray(scene(20, 30)).convert("RGBA").save(photos / "a.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(scene(20, 30)).save(photos / "b.jpg", exif=exif)
    pages = [Image.fromarray(scene(20, 30, i)).convert("L") for i in range(2)]
    pages[0].save(photos / "c.tif", save_all=True, append_images=pages[1:])
    out = tmp_path / "out"
    seen: list[tuple[int, int]] = []
    predict_files(predictor, photos, out, ("palette",), on_progress=lambda *step: seen.append(step))
    records = lines(out)
    assert seen == [(i, 6) for i in range(1, 7)]
    assert [Path(r["image"]).name for r in records] == [
        "a.png", "b.jpg", "c.tif", "p0.png", "p1.png", "p2.png",
    ]  # fmt: skip
    assert [r["notes"] for r in records] == [
        ["RGBA to RGB", "alpha dropped"],
        ["turned upright by EXIF"],
        ["L to RGB", "first of 2 frames"],
        [],
        [],
        [],
    ]
    turned = records[1]
    assert (turned["height"], turned["width"]) == (30, 20)
    assert turned["outputs"] == {"palette": str(out / "b.png")}
    assert 0 < turned["seconds"] < 10


def test_one_bad_file_does_not_stop_the_others(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    data = (photos / "p1.png").read_bytes()
    (photos / "p1.png").write_bytes(data[: len(data) // 2])
    (photos / "q.jpg").write_bytes(b"")
    out = tmp_path / "out"
    summary = predict_files(predictor, photos, out)
    assert summary.images == 2
    assert [failure.path.name for failure in summary.failures] == ["p1.png", "q.jpg"]
    assert summary.failures[0].message.startswith(f"image {photos}/p1.png cannot be read: ")
    assert tree(out) == ["manifest.jsonl", "p0.png", "p2.png", "settings.yaml"]
    records = lines(out)
    assert [set(r) for r in records if "error" in r] == [{"image", "error"}] * 2
    assert records[1]["error"] == summary.failures[0].message


def test_a_failure_names_its_image(weights: Path, photos: Path, tmp_path: Path) -> None:
    predictor = Predictor(weights, "cpu")
    with torch.no_grad():
        list(predictor.model.parameters())[-1].fill_(torch.nan)
    summary = predict_files(predictor, photos, tmp_path / "out")
    assert summary.images == 0
    for i, failure in enumerate(summary.failures):
        assert failure.message.startswith(
            f"{photos}/p{i}.png: the network's output is not a number: its training diverged"
        )


def test_a_full_queue_keeps_the_order(predictor: Predictor, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(23):
        Image.fromarray(scene(16 + i, 16, i)).save(folder / f"{i:02}.png")
    predict_files(predictor, folder, tmp_path / "out")
    records = lines(tmp_path / "out")
    assert [r["height"] for r in records] == [16 + i for i in range(23)]
    for i in range(23):
        assert read_mask(tmp_path / "out" / f"{i:02}.png").shape == (16 + i, 16)


# ---- where it writes -------------------------------------------------------------------------


def test_results_are_not_replaced_unless_told(
    predictor: Predictor, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict_files(predictor, photos / "p0.png", out)
    text = (
        f"{out} already holds predictions; choose another folder, or give --resume to continue "
        "them, --overwrite to replace them"
    )
    with pytest.raises(InputError) as caught:  # the manifest would be replaced
        predict_files(predictor, photos / "p1.png", out)
    assert str(caught.value) == text
    (out / "manifest.jsonl").unlink()
    with pytest.raises(InputError) as caught:  # the files themselves would be replaced
        predict_files(predictor, photos / "p0.png", out)
    assert str(caught.value) == text
    Image.new("P", (1, 1)).save(out / "p0.png")
    assert predict_files(predictor, photos, out, overwrite=True).images == 3
    assert read_mask(out / "p0.png").shape == (40, 50)


@pytest.mark.parametrize("overwrite", [False, True])
def test_images_are_never_written_over(predictor: Predictor, photos: Path, overwrite: bool) -> None:
    before = (photos / "p0.png").read_bytes()
    with pytest.raises(InputError) as caught:
        predict_files(predictor, photos, photos / ".", overwrite=overwrite)
    assert str(caught.value) == f"{photos} holds the images themselves; choose another folder"
    assert (photos / "p0.png").read_bytes() == before
    assert not (photos / "manifest.jsonl").exists()


def test_a_place_that_cannot_be_written(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=rf"^cannot write {tmp_path}/file/out: Not a directory;"):
        predict_files(predictor, photos, tmp_path / "file" / "out")
    out = tmp_path / "out"
    (out / "p1.png").mkdir(parents=True)
    with pytest.raises(FileError, match=rf"^{out}/p1.png is a folder"):
        predict_files(predictor, photos, out, overwrite=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
def test_no_space_left(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.jsonl").symlink_to("/dev/full")
    with pytest.raises(FileError) as caught:
        predict_files(predictor, photos, out, overwrite=True)
    assert str(caught.value) == f"no space left while writing {out}; free some space and go on"


# ---- what is asked for -----------------------------------------------------------------------


def test_outputs_that_do_not_exist(predictor: Predictor, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError) as caught:
        predict_files(predictor, photos, tmp_path / "out", ("overlays",))
    assert str(caught.value) == "unknown output 'overlays'; did you mean 'overlay'?"
    with pytest.raises(InputError) as caught:
        predict_files(predictor, photos, tmp_path / "out", ())
    assert str(caught.value) == (
        "no output is asked for; known: palette, ids, color, overlay, confidence, rle, polygons"
    )
    assert not (tmp_path / "out").exists()


def test_16_bit_ids_are_written_but_not_as_palette(photos: Path, tmp_path: Path) -> None:
    entries = [{"name": name, "id": 500 * i} for i, name in enumerate("abcd")]
    labels = LabelMap.from_dict(entries)
    predictor = Predictor(network(), "cpu", labels=labels, preprocessing=RULE)
    with pytest.raises(InputError) as caught:
        predict_files(predictor, photos, tmp_path / "out", ("palette", "ids"))
    assert str(caught.value) == (
        "the label map has raw ids above 255, which no palette PNG holds; "
        "ask for ids or color instead of palette"
    )
    predict_files(predictor, photos, tmp_path / "out", ("ids",))
    written = read_mask(tmp_path / "out" / "p0.png")
    np.testing.assert_array_equal(written, predictor(photos / "p0.png").mask * np.uint16(500))
    assert written.max() > 255


# ---- the score -------------------------------------------------------------------------------


def test_written_masks_score_what_evaluation_says(tmp_path: Path) -> None:
    """The masks on disk, read back and counted, give the counts of :func:`evaluate` exactly."""
    from semseg.data import build_dataset
    from semseg.train import evaluate

    dataset = build_dataset("synthetic", "val", length=5, size=(48, 72))
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(len(dataset)):
        Image.fromarray(dataset[i].image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    labels = dataset.labels
    model = network(labels.num_classes)
    predictor = Predictor(model, "cpu", labels=labels, preprocessing=RULE)
    predict_files(predictor, folder, tmp_path / "out", ("ids",))
    assert counts_of(tmp_path / "out", dataset) == evaluate(model, dataset, RULE).counts.tolist()


CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid"


@pytest.mark.slow
@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"needs CamVid in {CAMVID}")
def test_camvid_masks_score_what_evaluation_says(tmp_path: Path) -> None:
    from semseg.data import build_dataset
    from semseg.train import evaluate

    dataset = build_dataset("camvid", "val", CAMVID)
    model = network(dataset.labels.num_classes)
    predictor = Predictor(model, "cpu", labels=dataset.labels, preprocessing=RULE)
    summary = predict_files(predictor, CAMVID / "val", tmp_path / "out")
    assert (summary.images, summary.failures) == (101, ())
    wanted = evaluate(model, dataset, RULE).counts
    assert counts_of(tmp_path / "out", dataset) == wanted.tolist()
    assert (wanted.sum(0) > 0).sum() >= 3  # several classes are predicted


def counts_of(out: Path, dataset: Any) -> list[list[int]]:
    """Read masks by the names of the dataset's images and count them against its truth."""
    labels = dataset.labels
    matrix = ConfusionMatrix(labels.num_classes, labels.ignore_id)
    for i in range(len(dataset)):
        stem = Path(dataset.path(i)).stem
        file = out / f"{stem}.png" if (out / f"{stem}.png").exists() else out / f"{i}.png"
        prediction = labels.encode(read_mask(file))
        matrix.update(torch.from_numpy(prediction), torch.from_numpy(dataset[i].mask.numpy()))
    return matrix.counts.tolist()
