"""The ``folder`` dataset in an archive."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import UNIT
from semseg.data import build_dataset
from semseg.data.doctor.quick import glance
from semseg.data.loader import make_loader


def pack(folder: Path, path: Path, below: str = "") -> Path:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    names = [below + file.relative_to(folder).as_posix() for file in files]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for file, name in zip(files, names, strict=True):
                opened.write(file, name)
    else:
        with tarfile.open(path, "w") as opened:
            for file, name in zip(files, names, strict=True):
                opened.add(file, name)
    return path


@pytest.fixture
def folder(miniature) -> Path:
    return miniature("folder")


@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.parametrize("layout", ["folders", "lists", "drawn"])
def test_same_samples_as_of_the_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, suffix: str, layout: str
) -> None:
    if layout != "folders":
        for kind in ("images", "masks"):
            for file in sorted((folder / kind).glob("*/*.png")):
                file.rename(folder / kind / file.name)
                file.parent.rmdir() if not any(file.parent.iterdir()) else None
    if layout == "lists":
        for split in ("train", "val"):
            (folder / f"{split}.txt").write_text("".join(f"{split}_{i}.png\n" for i in range(3)))
    place = pack(folder, tmp_path_factory.mktemp("x") / f"x.{suffix}", "photos/") / "photos"
    for split in ("train", "val"):
        plain, packed = (build_dataset("folder", split, root) for root in (folder, place))
        assert len(packed) == len(plain) > 0
        assert packed.labels == plain.labels
        assert packed.fingerprint() == plain.fingerprint()
        for a, b in zip(plain, packed, strict=True):
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.mask, b.mask)
            assert Path(a.path).relative_to(folder) == Path(b.path).relative_to(place)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_at_once(folder: Path, tmp_path: Path, start: str) -> None:
    dataset = build_dataset("folder", "train", pack(folder, tmp_path / "x.zip"))
    dataset.pairs = [dataset.pairs[0]] * 24
    loader = make_loader(
        dataset,
        transform=None,
        preprocessing=UNIT,
        batch_size=4,
        seed=0,
        shuffle=False,
        workers=2,
        drop_last=False,
    )
    loader.multiprocessing_context = start
    first = UNIT(dataset[0].image.as_subclass(torch.Tensor))
    batches = list(loader)
    assert len(batches) == 6
    assert all(torch.equal(image, first) for batch in batches for image in batch.images)


def test_a_glance_before_training(folder: Path, tmp_path: Path) -> None:
    said = glance(build_dataset("folder", "train", pack(folder, tmp_path / "x.zip")))
    assert said.startswith("doctor: 3 samples and 0 headers")
    assert "error" not in said


def test_refusals(folder: Path, tmp_path: Path) -> None:
    root = pack(folder, tmp_path / "x.zip")
    with pytest.raises(InputError) as caught:
        build_dataset("folder", "train", root, labels="coco")
    assert str(caught.value) == (
        f"{root} is in an archive, where only masks are read; unpack it for labels and label_path"
    )
    (tmp_path / "y.zip").write_bytes(root.read_bytes()[:-30])
    with pytest.raises(FileError, match=r"y\.zip cannot be read: .*; pack it again$"):
        build_dataset("folder", "train", tmp_path / "y.zip")
    (folder / "classes.yaml").unlink()
    with pytest.raises(InputError, match=r"z\.zip/classes\.yaml does not exist; the first masks"):
        build_dataset("folder", "train", pack(folder, tmp_path / "z.zip"))


def test_a_damaged_image_is_named(folder: Path, tmp_path: Path) -> None:
    root = pack(folder, tmp_path / "x.zip")
    data = bytearray(root.read_bytes())
    place = data.index(b"images/train/train_0.png") + 60
    data[place : place + 8] = bytes(8)
    root.write_bytes(data)
    with pytest.raises(FileError) as caught:
        _ = build_dataset("folder", "train", root)[0]
    file = root / "images/train/train_0.png"
    assert str(caught.value) == f"{file} is damaged in its archive; pack x.zip again"
