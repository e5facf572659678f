"""Every mistake of a user: exit status 2, one line that names place and remedy, nothing lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.checkpoint import read_info
from tests.cli.conftest import write_dataset

Mistake = Callable[..., str]


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- data ------------------------------------------------------------------------------------


def remove_dataset(root: Path) -> None:
    shutil.rmtree(root)


def remove_mask(root: Path) -> None:
    (root / "masks/train/1.png").unlink()


def remove_image(root: Path) -> None:
    (root / "images/train/1.png").unlink()


def shrink_mask(root: Path) -> None:
    Image.new("L", (24, 16)).save(root / "masks/train/1.png")


def truncate_image(root: Path) -> None:
    # noise, because what compresses well is whole in the first bytes
    noise = np.random.default_rng(0).integers(256, size=(32, 48, 3), dtype=np.uint8)
    file = root / "images/train/1.png"
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:1000])


def unknown_id(root: Path) -> None:
    Image.new("L", (48, 32), 7).save(root / "masks/train/1.png")


def colour_mask(root: Path) -> None:
    Image.new("RGB", (48, 32), (128, 64, 128)).save(root / "masks/train/1.png")


def empty_split(root: Path) -> None:
    for file in (*(root / "images/val").iterdir(), *(root / "masks/val").iterdir()):
        file.unlink()


def remove_classes(root: Path) -> None:
    (root / "classes.yaml").unlink()


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (remove_dataset, ["data does not exist; the nearest folder is"]),
        (remove_mask, ["images/train/1.png has no mask; wanted", "masks/train/1 "]),
        (remove_image, ["masks/train/1.png has no image; wanted", "images/train/1 "]),
        (shrink_mask, ["images/train/1.png is 32 x 48", "masks/train/1.png is 16 x 24", "same"]),
        (truncate_image, ["images/train/1.png cannot be read", "replace the file"]),
        (unknown_id, ["masks/train/1.png: holds the ids 7 (1536 pixels)", "0-2", "as ignored"]),
        (colour_mask, ["masks/train/1.png is RGB where ids are expected; convert it"]),
        (empty_split, ["images/val holds no images; put"]),
        (remove_classes, ["classes.yaml does not exist", "ids 0-2", "Write this line"]),
    ],
)
def test_bad_data(
    damage: Callable[[Path], None],
    parts: list[str],
    dataset: Path,
    recipe: Path,
    mistake: Mistake,
) -> None:
    damage(dataset)
    line = mistake("train", recipe)
    for part in parts:
        assert part in line


# ---- names and settings ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["--model.name", "unett"], ["unknown network 'unett'", "'unet'"]),
        (["--data.name", "foldr"], ["unknown dataset 'foldr'", "'folder'"]),
        (["--model.settings.widht", "8"], ["unet has no setting 'widht'", "'width'"]),
        (["--data.settings.chanels", "1"], ["no setting 'chanels'", "'channels'"]),
        (["--optimizer.learning_rate", "1"], ["no setting 'optimizer.learning_rate'", "'lr'"]),
        (["--trian.epochs", "1"], ["no setting 'trian'", "'train'"]),
        (["--train.epochs", "0"], ["train.epochs is 0", "greater than or equal to 1"]),
        (["--train.precision", "fp8"], ["train.precision is 'fp8'", "'fp32', 'bf16' or 'fp16'"]),
        (["--model.settings.num_classes", "5"], ["num_classes 5, the data have 3 classes"]),
        (["--resume"], ["holds no run to resume"]),
        (["--resum", "true"], ["no setting 'resum'"]),
    ],
)
def test_bad_settings(
    changes: list[str], parts: list[str], recipe: Path, tmp_path: Path, mistake: Mistake
) -> None:
    line = mistake("train", recipe, *changes)
    for part in parts:
        assert part in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: [", "is not YAML"),
        ("", "holds no sections; it needs at least name, model and data"),
        ("name: x\nmodel: {name: unet}\n", "'data' is missing; add it"),
        ("name: a/b\nmodel: {name: unet}\ndata: {name: synthetic}\n", "name is 'a/b'"),
    ],
)
def test_bad_recipe(text: str, part: str, tmp_path: Path, mistake: Mistake) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    line = mistake("train", recipe)
    assert "recipe.yaml" in line
    assert part in line


def test_missing_recipe(tmp_path: Path, mistake: Mistake) -> None:
    line = mistake("train", tmp_path / "recipe.yaml")
    assert "recipe.yaml does not exist; give a YAML file" in line


def test_unknown_family(mistake: Mistake) -> None:
    assert "unknown family 'real'; did you mean 'realtime'?" in mistake("list", "--family", "real")


def test_unknown_network(mistake: Mistake) -> None:
    assert "unknown network 'unett'; did you mean 'unet'" in mistake("info", "unett")


# ---- runs and checkpoints --------------------------------------------------------------------


def test_folder_that_holds_another_run(trained: Path, recipe: Path, mistake: Mistake) -> None:
    before = files_below(trained)
    line = mistake("train", recipe, "--out", trained.parent)
    assert f"{trained} already holds a run; give --resume" in line
    assert "--overwrite" in line
    assert files_below(trained) == before


def test_folder_that_holds_other_files(tmp_path: Path, recipe: Path, mistake: Mistake) -> None:
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/thesis.txt").write_text("years of work")
    for flags in ([], ["--overwrite"]):
        assert "holds files that are no run" in mistake("train", recipe, *flags)
    assert (tmp_path / "runs/tiny/thesis.txt").read_text() == "years of work"


def test_resume_with_another_recipe(trained: Path, recipe: Path, mistake: Mistake) -> None:
    before = files_below(trained)
    line = mistake("train", recipe, "--out", trained.parent, "--resume", "--optimizer.lr", "0.5")
    assert "optimizer.lr: 0.5 against 0.001" in line
    assert files_below(trained) == before


def test_checkpoint_of_other_classes(
    trained: Path, dataset: Path, recipe: Path, tmp_path: Path, mistake: Mistake
) -> None:
    weights = trained / "best.safetensors"
    other = write_dataset(tmp_path / "other", ("sky", "road", "bush"))
    wanted = "best.safetensors was trained for other classes than folder: class 2 is 'tree'"
    assert wanted in mistake("train", recipe, "--data.root", other, "--model.weights", weights)
    assert wanted in mistake("validate", trained, "--data.root", other)


def test_damaged_weights(trained: Path, tmp_path: Path, mistake: Mistake) -> None:
    data = (trained / "best.safetensors").read_bytes()
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(data[: len(data) // 2])
    line = mistake("predict", weights, tmp_path, "--out", tmp_path / "out")
    assert "weights.safetensors is not a whole .safetensors file" in line


@pytest.mark.parametrize("command", ["validate", "predict"])
def test_run_that_does_not_exist(command: str, tmp_path: Path, mistake: Mistake) -> None:
    rest = [tmp_path, "--out", tmp_path / "out"] if command == "predict" else []
    line = mistake(command, tmp_path / "nothing", *rest)
    assert "nothing" in line
    assert "exist" in line


def test_validate_on_a_split_that_does_not_exist(trained: Path, mistake: Mistake) -> None:
    assert "unknown split of folder 'vall'" in mistake("validate", trained, "--split", "vall")


def test_full_disk(
    trained: Path, recipe: Path, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the second epoch's weights are written; those of the first remain."""
    write, written = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        if "best.safetensors" in path.name or "last.safetensors" in path.name:
            written.append(path)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    line = mistake("train", recipe, "--train.epochs", "3")
    assert "no space left while writing" in line
    assert "the version before it is kept; free some space and go on" in line
    folder = recipe.parent / "runs" / "tiny"
    assert not list(folder.rglob("*.partial*"))
    for name in ("best.safetensors", "last.safetensors"):
        assert read_info(folder / name).model == "unet"


# ---- prediction ------------------------------------------------------------------------------


def test_source_that_does_not_exist(trained: Path, tmp_path: Path, mistake: Mistake) -> None:
    line = mistake("predict", trained, tmp_path / "photos", "--out", tmp_path / "out")
    assert "photos does not exist" in line
    assert not (tmp_path / "out").exists()


def test_unknown_output(trained: Path, dataset: Path, tmp_path: Path, mistake: Mistake) -> None:
    images = dataset / "images/val"
    line = mistake("predict", trained, images, "--out", tmp_path / "out", "--outputs", "palete")
    assert "'palete'" in line
    assert "'palette'" in line


def test_results_are_not_replaced(
    trained: Path, dataset: Path, tmp_path: Path, mistake: Mistake
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "0.png").write_bytes(b"of value")
    line = mistake("predict", trained, dataset / "images/val", "--out", out)
    assert f"{out} already holds predictions; choose another folder, or give --resume" in line
    assert files_below(out) == {"0.png": b"of value"}
