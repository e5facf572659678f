"""Shards of samples: what is found in them, what is written, and what is refused."""

from __future__ import annotations

import gc
import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semseg.core.checks import FileError, InputError, SettingError
from semseg.core.labels import LabelMap
from semseg.core.preprocess import UNIT
from semseg.data import build_dataset
from semseg.data.base import Sample, SegmentationDataset
from semseg.data.camvid import LABELS
from semseg.data.doctor import diagnose
from semseg.data.loader import make_loader
from semseg.data.shard_writer import write_shards
from semseg.data.shards import find_shards

RNG = np.random.default_rng(0)
CLASSES = "classes: [{name: a, id: 3}, {name: b, id: 7}, {name: void, id: 250, ignore: true}]\n"


def picture(form: str = "PNG", value: int = 0) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(held, form)
    return held.getvalue()


def mask(value: int = 3) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(held, "PNG")
    return held.getvalue()


def pack(shard: Path, files: list[tuple[str, bytes]]) -> Path:
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, "w") as opened:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return shard


def sample(key: str, image: str = "jpg", label: str = "seg.png", value: int = 0) -> list:
    form = {"jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}.get(image.rpartition(".")[2], "PNG")
    return [(f"{key}.{image}", picture(form, value)), (f"{key}.{label}", mask((3, 7, 250)[value]))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "classes.yaml").write_text(CLASSES)
    for split, counts in {"train": (3, 2), "val": (1,)}.items():
        for place, count in enumerate(counts):
            keys = [f"{place}{i}" for i in range(count)]
            files = [file for i, key in enumerate(keys) for file in sample(key, value=i)]
            pack(tmp_path / f"{split}-{place:06}.tar", files)
    return tmp_path


def names(dataset) -> list[str]:
    return [dataset.path(i) for i in range(len(dataset))]


def keys(dataset) -> list[str]:
    return [Path(name).name.partition(".")[0] for name in names(dataset)]


def test_samples_by_position(root: Path) -> None:
    train = build_dataset("webdataset", "train", root)
    assert keys(train) == ["00", "01", "02", "10", "11"]
    assert names(train)[3] == str(root / "train-000001.tar/10.jpg")
    assert [int(train[i].mask.unique()) for i in (2, 0, 1)] == [255, 0, 1]
    assert tuple(train[0].image.shape) == (3, 4, 6)
    assert keys(build_dataset("webdataset", "val", root)) == ["00"]
    assert train.labels == LabelMap.from_yaml(root / "classes.yaml")
    grey = build_dataset("webdataset", "train", root, channels=1)
    assert tuple(grey[0].image.shape) == (1, 4, 6)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("jpg", "png"),
        ("jpeg", "mask.png"),
        ("webp", "segm.png"),
        ("png", "seg.png"),
        ("PNG", "label.tif"),
        ("image.png", "mask.png"),
        ("rgb.jpg", "left.gt.png"),
    ],
)
def test_images_and_masks_by_their_names(tmp_path: Path, image: str, label: str) -> None:
    (tmp_path / "classes.yaml").write_text(CLASSES)
    more = [("a/x.json", b"{}"), ("a/x.depth.npy", b""), ("README.md", b""), ("__key__", b"")]
    pack(tmp_path / "train.tar", [*more, *sample("./a/x", image, label, 1)])
    train = build_dataset("webdataset", "train", tmp_path)
    image_file, mask_file = train.pairs[0]
    assert image_file == tmp_path / f"train.tar/a/x.{image}"
    assert mask_file == tmp_path / f"train.tar/a/x.{label}"
    assert int(train[0].mask.unique()) == 1


def test_images_and_masks_as_stated(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text(CLASSES)
    files = [*sample("x", "left.png", "fine.png"), *sample("x", "right.png", "coarse.png")]
    pack(tmp_path / "train.tar", files)
    stated = {"image": "right.png", "mask": "fine.png"}
    train = build_dataset("webdataset", "train", tmp_path, **stated)
    assert [file.name for file in train.pairs[0]] == ["x.right.png", "x.fine.png"]
    with pytest.raises(SettingError, match=r"setting image is '\.png'; String should match"):
        build_dataset("webdataset", "train", tmp_path, image=".png")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("{split}*.tar", ["t/train-00", "t/train-01", "t/train-02"]),
        ("{split}-{00..01}.tar", ["t/train-00", "t/train-01"]),
        ("{split}-{02,00}.tar", ["t/train-02", "t/train-00"]),
        ("{split}-0[12].tar", ["t/train-01", "t/train-02"]),
        ("../t/{train,val}-{00..00}.tar", ["t/train-00", "t/val-00"]),
        ("{split}-{01,0?}.tar", ["t/train-01", "t/train-00", "t/train-02"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for name in ("train-00", "train-01", "train-02", "val-00"):
        pack(tmp_path / f"t/{name}.tar", [])
    shards = [shard.resolve() for shard in find_shards(tmp_path / "t", pattern, "train")]
    assert shards == [tmp_path / f"{name}.tar" for name in found]


def test_one_in_five_where_shards_are_of_all_splits(tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text(CLASSES)
    held = [f"{i:03}" for i in range(60)]
    for place in range(2):
        files = [file for key in held[place::2] for file in sample(key)]
        pack(tmp_path / f"all-{place}.tar", files)
    parts = [
        build_dataset("webdataset", split, tmp_path, shards="all-{0..1}.tar")
        for split in ("train", "val")
    ]
    assert sorted(keys(parts[0]) + keys(parts[1])) == held
    assert 4 <= len(parts[1]) <= 20
    assert parts[0].notes == (
        "the shards all-{0..1}.tar are of all splits, so one sample in five, chosen by a hash of "
        "its name, is val",
    )
    turned = build_dataset("webdataset", "val", tmp_path, shards="all-{1,0}.tar")
    assert sorted(keys(turned)) == sorted(keys(parts[1]))


def test_workers_read_in_any_order_and_resume(root: Path) -> None:
    train = build_dataset("webdataset", "train", root)

    def epoch(begin: int = 0, workers: int = 2) -> list[str]:
        loader = make_loader(
            train,
            transform=None,
            preprocessing=UNIT,
            batch_size=1,
            seed=3,
            start=begin,
            shuffle=True,
            workers=workers,
            drop_last=False,
        )
        return [path for batch in loader for path in batch.paths]

    whole = epoch()
    assert sorted(whole) == sorted(names(train)) != whole
    assert epoch(2) == whole[2:]
    assert epoch(0, workers=0) == whole


def test_doctor_looks_into_shards(root: Path) -> None:
    found = diagnose("webdataset", root)
    assert [found.splits[split].samples for split in ("train", "val")] == [5, 1]
    assert not [x for x in found.findings if x.severity == "error"]
    data = bytearray((root / "val-000000.tar").read_bytes())
    data[512 + 30 : 512 + 90] = bytes(60)
    (root / "val-000000.tar").write_bytes(data)
    (finding,) = diagnose("webdataset", root).of("error")
    assert "val-000000.tar/00.jpg" in str(finding)


# ---- writing -----------------------------------------------------------------------------------


def test_written_shards_hold_the_same_samples(miniature, tmp_path: Path) -> None:
    folder = miniature("folder")
    out = tmp_path / "shards"
    done: list[tuple[int, int]] = []
    for split in ("train", "val"):
        source = build_dataset("folder", split, folder)
        shards = write_shards(source, out, per_shard=2, on_progress=lambda *x: done.append(x))
        assert shards == [out / f"{split}-00000{i}.tar" for i in range(2)]
        again = build_dataset("webdataset", split, out)
        assert again.labels == source.labels
        assert keys(again) == [f"00000{i}-{split}_{i}" for i in range(3)]
        for one, other in zip(source, again, strict=True):
            assert torch.equal(one.image, other.image)
            assert torch.equal(one.mask, other.mask)
    assert done == [(2, 3), (3, 3)] * 2
    with tarfile.open(out / "train-000000.tar") as opened:
        stored = opened.extractfile("000000-train_0.png")
        assert stored.read() == (folder / "images/train/train_0.png").read_bytes()  # as it was


def test_equal_data_give_equal_shards_and_shorter_splits_replace_longer(
    miniature, tmp_path: Path
) -> None:
    source = build_dataset("folder", "train", miniature("folder"))
    (first,) = write_shards(source, tmp_path / "a")
    (second,) = write_shards(source, tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    write_shards(source, tmp_path / "a", per_shard=1, overwrite=True)
    assert len(list((tmp_path / "a").glob("*.tar"))) == 3
    write_shards(source, tmp_path / "a", overwrite=True)
    assert len(list((tmp_path / "a").glob("*.tar"))) == 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_that_are_no_files_become_png(tmp_path: Path, channels: int) -> None:
    class Made(SegmentationDataset):
        labels, split = LABELS, "val"

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Sample:
            pixels = np.random.default_rng(index).integers(0, 256, (channels, 9, 7))
            ids = torch.full((9, 7), 255 if index else 3, dtype=torch.uint8)
            image = torch.from_numpy(pixels.astype(np.uint8))
            return Sample(image, ids, f"scene v1.{index}", (9, 7))

    made = Made()
    if channels == 4:
        with pytest.raises(InputError, match="shards hold images of 1 or 3 channels, got 4"):
            write_shards(made, tmp_path)
        assert list(tmp_path.glob("*.tar")) == []
        return
    write_shards(made, tmp_path)
    again = build_dataset("webdataset", "val", tmp_path, channels=channels)
    assert keys(again) == ["000000-scene v1", "000001-scene v1"]
    for index in range(2):
        assert torch.equal(again[index].image, made[index].image)
        assert torch.equal(again[index].mask, made[index].mask)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # it leaves shards open
def test_the_package_reads_what_was_written(miniature, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    source = build_dataset("folder", "train", miniature("folder"))
    shards = write_shards(source, tmp_path / "s", per_shard=2)
    stream = webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=False)
    seen = list(stream)
    assert [one["__key__"] for one in seen] == [f"00000{i}-train_{i}" for i in range(3)]
    for one, known in zip(seen, source, strict=True):
        image = np.array(Image.open(io.BytesIO(one["png"])))
        ids = np.array(Image.open(io.BytesIO(one["seg.png"])))
        np.testing.assert_array_equal(image, known.image.permute(1, 2, 0))
        np.testing.assert_array_equal(source.labels.encode(ids), known.mask)
    del stream
    gc.collect()


def test_what_the_package_wrote_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    (tmp_path / "classes.yaml").write_text(CLASSES)
    image, ids = RNG.integers(0, 256, (5, 6, 3), np.uint8), np.full((5, 6), 7, np.uint8)
    with webdataset.ShardWriter(str(tmp_path / "train-%04d.tar"), maxcount=2, verbose=0) as sink:
        for i in range(3):
            entry = {"__key__": f"in/{i}", "png": image, "mask.png": ids, "json": {"i": i}}
            sink.write(entry)
    train = build_dataset("webdataset", "train", tmp_path)
    assert names(train)[2] == str(tmp_path / "train-0001.tar/in/2.png")
    np.testing.assert_array_equal(train[2].image.permute(1, 2, 0), image)
    assert int(train[2].mask.unique()) == 1


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "kind", "text"),
    [
        (
            sample("a/x")[:1],
            FileError,
            "sample a/x of shard {shard} has no mask; wanted a/x.seg.png",
        ),
        (sample("x")[1:], FileError, "sample x of shard {shard} has no image; wanted x.jpg"),
        (sample("x") * 2, InputError, "shard {shard} holds x.jpg twice; keep one"),
        (
            [*sample("x"), *sample("x", "png", "mask.png")],
            InputError,
            "sample x of shard {shard} has x.jpg and x.png, either of which may be the image; say "
            "which with image, e.g. image: jpg",
        ),
        (
            [*sample("x"), ("x.mask.png", mask())],
            InputError,
            "sample x of shard {shard} has x.seg.png and x.mask.png, either of which may be the "
            "mask; say which with mask, e.g. mask: seg.png",
        ),
        ([("a.txt", b"")], InputError, "{shard} holds no images; its samples are e.g. 1.jpg, 1.s"),
    ],
)
def test_samples_that_are_not_whole(tmp_path: Path, files: list, kind: type, text: str) -> None:
    (tmp_path / "classes.yaml").write_text(CLASSES)
    shard = pack(tmp_path / "train.tar", files)
    with pytest.raises(kind) as caught:
        build_dataset("webdataset", "train", tmp_path)
    assert str(caught.value).startswith(text.replace("{shard}", str(shard)))


@pytest.mark.parametrize("cut", [700, 1536, 2048 + 100, 4096 + 512])
def test_shards_that_are_cut_short(root: Path, cut: int) -> None:
    shard = root / "train-000001.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as opened:
        ends = [-(-(info.offset_data + info.size) // 512) * 512 for info in opened]
        held = opened.getnames()
    for length in (cut, ends[1], ends[1] + 100, ends[-1]):
        shard.write_bytes(whole[:length])
        inside = sum(end <= length for end in ends)
        last = held[min(inside, len(held) - 1)] if length not in ends else held[inside - 1]
        with pytest.raises(FileError) as caught:
            build_dataset("webdataset", "train", root)
        text = re.escape(f"shard {shard} ends or is damaged at ") + "(.*); copy it again"
        found = re.fullmatch(text, str(caught.value))
        assert found, str(caught.value)
        assert found[1] in (last, held[max(0, inside - 1)])


def test_shards_that_are_damaged(root: Path) -> None:
    shard = root / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as opened:
        second = opened.getmembers()[2]
    data[second.offset + 10] ^= 255
    shard.write_bytes(data)
    with pytest.raises(FileError, match=r"000000\.tar ends or is damaged at 00\.seg\.png; copy it"):
        build_dataset("webdataset", "train", root)
    shard.write_bytes(b"no tar" * 300)
    with pytest.raises(FileError, match=r"000000\.tar ends or is damaged at its first file; copy"):
        build_dataset("webdataset", "train", root)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("no-*.tar", "{root} holds no shards no-*.tar for split 'train'; set shards to their"),
        ("train-{000000..000002}.tar", "shard {root}/train-000002.tar does not exist; copy it, or"),
        ("x.tar.gz", "{root}/x.tar.gz is compressed as a whole, so no file in it can be read by "),
        ("classes.yaml", "shard {root}/classes.yaml is no .tar file; pack it as one"),
    ],
)
def test_wrong_patterns(root: Path, pattern: str, text: str) -> None:
    (root / "x.tar.gz").write_bytes(b"")
    with pytest.raises(FileError) as caught:
        build_dataset("webdataset", "train", root, shards=pattern)
    assert str(caught.value).startswith(text.replace("{root}", str(root)))


def test_no_class_file_and_unknown_ids(root: Path) -> None:
    (root / "classes.yaml").write_text("classes: [a, b, c, d]\n")
    with pytest.raises(InputError, match=r"train-000000\.tar.01\.seg\.png: holds the ids 7 \(24"):
        _ = build_dataset("webdataset", "train", root)[1]
    (root / "classes.yaml").unlink()
    with pytest.raises(InputError, match=r"classes\.yaml does not exist; the first masks hold"):
        build_dataset("webdataset", "train", root)


def test_writing_is_refused(miniature, tmp_path: Path) -> None:
    source = build_dataset("folder", "train", miniature("folder"))
    with pytest.raises(InputError, match="per_shard must be at least 1, got 0"):
        write_shards(source, tmp_path / "s", per_shard=0)
    write_shards(source, tmp_path / "s")
    with pytest.raises(FileError, match=r"train-000000\.tar exists; choose another place, or allo"):
        write_shards(source, tmp_path / "s")
    (tmp_path / "s/train-000000.tar").unlink()
    (tmp_path / "s/classes.yaml").write_text("classes: [a]\n")
    with pytest.raises(FileError, match=r"classes\.yaml exists and has other classes; choose an"):
        write_shards(source, tmp_path / "s")
    assert list((tmp_path / "s").glob("*.tar")) == []
