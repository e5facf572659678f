"""Labels for points: in files, in parts and in rounds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from semseg.cli import main
from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import FileError, InputError, UnknownNameError
from semseg.core.clouds import Clouds
from semseg.core.labels import Label, LabelMap
from semseg.core.preprocess import Preprocessing
from semseg.models import create_model
from semseg.models.base import settings_of
from semseg.predict.point_files import predict_clouds, read_cloud
from semseg.predict.points import PointPredictor, _parts, _turns, decide_points
from tests.models.support import fill

LABELS = LabelMap((Label("a", 7, 0, (9, 8, 7)), Label("b", 300, 1, (1, 2, 3))))


def room(count: int = 700) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.random((count, 3)) * 4 + 50, rng.integers(0, 256, (count, 3))], 1)


def as_clouds(cloud: np.ndarray) -> Clouds:
    points = torch.from_numpy(cloud[:, :3] - cloud[:, :3].min(0)).float()
    return Clouds.of(points, torch.from_numpy(cloud[:, 3:] / 255).float())


def weights(folder: Path, voxel: float | None, classes: int = 2) -> Path:
    settings = {"num_classes": classes, "width": 8, "blocks": (0, 0, 0, 0, 0)}
    model = fill(create_model("point_transformer", **settings))
    with torch.no_grad():  # every class is that of some points
        model.head[-1].bias -= model(as_clouds(room())).median(0).values
    rule = Preprocessing((0.0,) * 3, (1.0,) * 3, voxel=voxel)
    info = WeightsInfo(
        model="point_transformer", settings=settings_of(model), labels=LABELS, preprocessing=rule
    )
    save_weights(folder / "best.safetensors", model.state_dict(), info)
    return folder


def test_without_a_grid_every_point_is_seen(tmp_path: Path) -> None:
    predictor, cloud = PointPredictor(weights(tmp_path, None), "cpu"), room()
    got = predictor(cloud[:, :3], cloud[:, 3:])
    clouds = as_clouds(cloud)
    with torch.inference_mode():
        decision = decide_points(predictor.model, clouds, confidence=True)
        logits = predictor.model(clouds)
    assert decision.ids.shape == (1, 1, 700)
    assert decision.logits.shape == (1, 2, 1, 700)
    assert got.ids.tolist() == decision.ids[0, 0].tolist() == logits.argmax(1).tolist()
    want = logits.softmax(1).amax(1)
    torch.testing.assert_close(torch.from_numpy(got.confidence), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decision.confidence[0, 0], want)


def test_one_channel_is_yes_or_no(tmp_path: Path) -> None:
    predictor, cloud = PointPredictor(weights(tmp_path, None, classes=1), "cpu"), room()
    got = predictor(cloud[:, :3], cloud[:, 3:])
    assert set(got.ids.tolist()) == {0, 1}
    assert got.confidence.min() >= 0.5
    clouds = as_clouds(cloud)
    with torch.inference_mode():
        decision = decide_points(predictor.model, clouds, confidence=True)
    assert got.ids.tolist() == decision.ids[0, 0].tolist()
    want = decision.confidence[0, 0].numpy()
    np.testing.assert_allclose(got.confidence, want, rtol=1e-4, atol=1e-5)


def test_points_of_a_cell_share_a_class_unless_it_is_their_turn(tmp_path: Path) -> None:
    twins = room()
    twins[:, 0] += 0.001  # in the same cell, most of them
    cloud = np.concatenate([room(), twins])
    once = PointPredictor(weights(tmp_path, 0.3), "cpu")(cloud[:, :3], cloud[:, 3:])
    assert (once.ids[:700] == once.ids[700:]).mean() > 0.95
    many = PointPredictor(tmp_path, "cpu", rounds=50)(cloud[:, :3], cloud[:, 3:])
    assert (many.ids != once.ids).any()


def test_turns_reach_every_point() -> None:
    cells = torch.tensor([0, 1, 0, 2, 0, 1])
    turns = [kept.tolist() for kept in _turns(cells, 9)]
    assert turns == [[0, 1, 3], [2, 5, 3], [4, 1, 3]]
    assert len(list(_turns(cells, 2))) == 2


def test_parts_cover_the_cloud(tmp_path: Path) -> None:
    points = torch.from_numpy(room()[:, :3])
    parts = list(_parts(points, 300))
    assert {len(part) for part in parts} == {300}
    assert len(torch.cat(parts).unique()) == 700
    assert len(parts) < 12
    assert [part.tolist() for part in _parts(points[:5], 300)] == [[0, 1, 2, 3, 4]]
    predictor = PointPredictor(weights(tmp_path, None), "cpu", most=400)
    assert len(predictor(room()[:, :3], room()[:, 3:]).ids) == 700


@pytest.mark.parametrize("form", ["txt", "xyz", "npy", "ply"])
def test_files_in_and_out(tmp_path: Path, form: str) -> None:
    inside, cloud = tmp_path / "in", room()
    inside.mkdir()
    if form == "npy":
        np.save(inside / "a.npy", cloud)
    elif form == "ply":
        lines = ["ply", "format ascii 1.0", "comment made by hand", f"element vertex {len(cloud)}"]
        lines += [f"property double {name}" for name in "zyx"]
        lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
        rows = [" ".join(map(repr, map(float, row[[2, 1, 0, 3, 4, 5]]))) for row in cloud]
        text = [*lines, "element face 0", "property list uchar int v", "end_header", *rows, ""]
        (inside / "a.ply").write_text("\n".join(text))
    else:
        np.savetxt(inside / f"a.{form}", np.column_stack([cloud, cloud]), fmt="%.17g")
    predictor = PointPredictor(weights(tmp_path, 0.3), "cpu")
    np.testing.assert_array_equal(read_cloud(inside / f"a.{form}"), cloud)
    (record,) = predict_clouds(predictor, inside, tmp_path / "out", ("ply", "npy", "txt"))
    assert record["points"] == 700
    assert json.loads((tmp_path / "out/manifest.jsonl").read_text()) == record
    raw = np.array([7, 300])[predictor(cloud[:, :3], cloud[:, 3:]).ids]
    assert np.load(tmp_path / "out/a.npy").tolist() == raw.tolist()
    assert np.loadtxt(tmp_path / "out/a.txt").tolist() == raw.tolist()
    written = read_cloud(tmp_path / "out/a.ply")  # a binary one
    np.testing.assert_array_equal(written[:, :3], cloud[:, :3])
    assert {tuple(color) for color in written[:, 3:].tolist()} <= {(9, 8, 7), (1, 2, 3)}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad.ply"
    for text, message in (
        ("hello\n", "is not a PLY file"),
        ("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n", "no vertex"),
        ("ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\n", "with a list"),
        ("ply\nformat ascii 1.0\nelement face 1\n", "has face before its vertices"),
    ):
        bad.write_text(text)
        with pytest.raises(FileError, match=f"{re.escape(str(bad))} .*{message}"):
            read_cloud(bad)
    (tmp_path / "few.txt").write_text("1 2 3\n")
    with pytest.raises(FileError, match=re.escape("has shape (1, 3); wanted x y z r g b")):
        read_cloud(tmp_path / "few.txt")
    (tmp_path / "words.txt").write_text("a b c d e f\n")
    with pytest.raises(FileError, match=r"words\.txt cannot be read"):
        read_cloud(tmp_path / "words.txt")
    with pytest.raises(FileError, match=r"does not exist; give a \.ply"):
        read_cloud(tmp_path / "none.txt")


def test_one_bad_cloud_does_not_stop_the_others(tmp_path: Path) -> None:
    inside, out = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    np.save(inside / "good.npy", room())
    np.save(inside / "small.npy", room(100))
    predictor = PointPredictor(weights(tmp_path, None), "cpu")
    good, small = predict_clouds(predictor, inside, out, ("txt",))
    assert good["points"] == 700
    assert small["error"].startswith(f"{inside / 'small.npy'}: PointTransformer takes clouds of")
    with pytest.raises(InputError, match="already holds predictions"):
        predict_clouds(predictor, inside, out, ("txt",))
    predict_clouds(predictor, inside / "good.npy", out, ("txt",), overwrite=True)
    with pytest.raises(InputError, match="holds the clouds themselves"):
        predict_clouds(predictor, inside, inside)
    with pytest.raises(UnknownNameError, match="unknown output 'pyl'"):
        predict_clouds(predictor, inside, out, ("pyl",))
    with pytest.raises(FileError, match="holds no clouds"):
        predict_clouds(predictor, out / "nothing", out)


def test_what_a_predictor_takes(tmp_path: Path) -> None:
    folder = weights(tmp_path, None)
    with pytest.raises(InputError, match="rounds must be at least 1 and most at least 256"):
        PointPredictor(folder, "cpu", most=255)
    predictor = PointPredictor(folder, "cpu")
    wanted = "wanted coordinates (N, 3) and features (N, 3), got (700, 3) and (700, 2)"
    with pytest.raises(InputError, match=re.escape(wanted)):
        predictor(room()[:, :3], room()[:, 3:5])
    model = create_model("unet", num_classes=2, width=4)
    rule = Preprocessing((0.0,) * 3, (1.0,) * 3)
    info = WeightsInfo(model="unet", settings=settings_of(model), labels=LABELS, preprocessing=rule)
    save_weights(tmp_path / "unet.safetensors", model.state_dict(), info)
    with pytest.raises(InputError, match="holds unet, which labels images and not points"):
        PointPredictor(tmp_path / "unet.safetensors")


def test_the_command_predicts_clouds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "scans").mkdir()
    run = weights(tmp_path / "run", None)
    np.save(tmp_path / "scans/a.npy", room())
    (tmp_path / "scans/b.npy").write_bytes(b"")
    out = tmp_path / "out"
    call = ["predict", str(run), str(tmp_path / "scans"), "--out", str(out), "--device", "cpu"]
    assert main(call) == 3
    told = capsys.readouterr()
    assert told.out.strip() == f"1 clouds, 1 failed; written to {out}"
    assert "b.npy" in told.err
    assert (out / "a.ply").is_file()
