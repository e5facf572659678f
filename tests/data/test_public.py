"""What is special of single public datasets: traps of their encodings, refusals, odd layouts."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from semseg.core.checks import FileError, InputError
from semseg.data import build_dataset
from semseg.data.public import class_table, hold_out
from tests.data import miniatures as m
from tests.data.matlab import save_mat


def names(dataset) -> list[str]:
    return [Path(dataset.path(i)).stem for i in range(len(dataset))]


# ---- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "classes", "known"),
    [
        ("ade20k", 150, {1: "wall", 13: "person", 21: "car", 60: "stairway", 142: "crt screen"}),
        ("camvid", 31, {0: "Animal", 16: "Pedestrian", 17: "Road", 27: "Truck_Bus"}),
        ("cityscapes", 19, {7: "road", 21: "vegetation", 24: "person", 31: "train"}),
        ("coco_panoptic", 133, {1: "person", 64: "potted plant", 92: "banner", 184: "tree-merged"}),
        ("coco_stuff", 171, {0: "person", 63: "potted plant", 91: "banner", 168: "tree"}),
        ("nyu40", 40, {1: "wall", 20: "floor mat", 28: "shower curtain", 37: "bag"}),
        ("pascal_context", 60, {1: "aeroplane", 7: "bird", 37: "person", 55: "tvmonitor"}),
    ],
)
def test_class_tables(table: str, classes: int, known: dict[int, str]) -> None:
    labels = class_table(table)
    assert labels.num_classes == classes
    by_id = {label.raw_id: label.name for label in labels.labels}
    assert {i: by_id[i] for i in known} == known
    colors = {tuple(color) for color in labels.colors.tolist()}
    assert len(colors) == classes - (table == "ade20k")  # where road and fan are alike


def test_ids_of_the_class_tables() -> None:
    never_annotated = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    wanted = {
        "ade20k": list(range(1, 151)),
        "camvid": [i for i in range(32) if i != 30],
        "cityscapes": [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33],
        "coco_stuff": [i for i in range(182) if i not in never_annotated],
        "nyu40": list(range(1, 41)),
        "pascal_context": list(range(60)),
    }
    for table, ids in wanted.items():
        assert [label.raw_id for label in class_table(table).classes] == ids


def test_held_out_fifth() -> None:
    assert hold_out(range(30), "val") == list(range(24, 30))
    assert hold_out(range(795), "val", 50) == [*range(200, 250), *range(450, 500), *range(700, 750)]
    for block in (None, 1, 50):
        parts = [hold_out(range(523), split, block) for split in ("train", "val")]
        assert sorted(parts[0] + parts[1]) == list(range(523))
    # the official training set of SUN RGB-D: the counts in its entry
    assert len(hold_out(range(5285), "val", 50)) == 1050


# ---- VOC ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sbd", ["png", "mat"])
def test_augmented_voc_has_no_val_image_and_keeps_voc_masks(tmp_path: Path, sbd: str) -> None:
    m.voc(tmp_path, (0, 15), sbd=sbd)
    train = build_dataset("voc2012", "train", tmp_path, augmented=True)
    own = ["2007_000000", "2007_000001", "2007_000002"]
    assert names(train) == [*own, "2009_000000", "2009_000001"]
    assert [train.pairs[i][1].parent.name for i in range(3)] == ["SegmentationClass"] * 3
    plain = build_dataset("voc2012", "train", tmp_path)
    assert names(plain) == own
    assert "officially 10582" in train.notes[0]
    assert "officially 1464" in plain.notes[0]
    with pytest.raises(InputError, match="voc2012 augmented has the splits train and val"):
        build_dataset("voc2012", "trainval", tmp_path, augmented=True)


def test_sbd_elsewhere_and_missing(tmp_path: Path) -> None:
    m.voc(tmp_path / "devkit/VOC2012", (0, 15), sbd="mat")
    (tmp_path / "devkit/VOC2012/benchmark_RELEASE").rename(tmp_path / "sbd")
    with pytest.raises(FileError, match=r"nor SBD at .*benchmark_RELEASE exists, .*bharathh\.info"):
        build_dataset("voc2012", "train", tmp_path / "devkit", augmented=True)
    for folder in ("sbd", "sbd/dataset"):
        train = build_dataset(
            "voc2012", "train", tmp_path / "devkit", augmented=True, sbd=str(tmp_path / folder)
        )
        assert len(train) == 5
        assert re.fullmatch("[0-9a-f]{64}", train.fingerprint())


# ---- off by one, and other silent traps --------------------------------------------------------


def test_sun_rgbd_refuses_the_other_encoding(tmp_path: Path) -> None:
    m.sun_rgbd(tmp_path / "shifted", (0, 36, 255))
    with pytest.raises(InputError, match="holds the id 255, so void is 255 in it and not 0; set"):
        build_dataset("sun_rgbd", "train", tmp_path / "shifted")
    m.sun_rgbd(tmp_path / "official", (0, 37))
    with pytest.raises(InputError, match="holds the id 37, so void is 0 in it and not 255; set vo"):
        build_dataset("sun_rgbd", "test", tmp_path / "official", void=255)


def test_sun_rgbd_pairs_by_number(tmp_path: Path) -> None:
    m.sun_rgbd(tmp_path, (1,), shift=5050, folder="labels")
    image, mask = build_dataset("sun_rgbd", "train", tmp_path).pairs[4]
    assert (image.name, mask.name) == ("img-000005.jpg", "img-005055.png")
    image, mask = build_dataset("sun_rgbd", "test", tmp_path).pairs[1]
    assert (image.name, mask.name) == ("img-000002.jpg", "00000002.png")


def test_camvid_colours(tmp_path: Path) -> None:
    m.camvid_original(tmp_path, (1, 99))
    with pytest.raises(
        InputError, match=r"train0_L\.png: holds the colours \(1, 2, 3\), which CamVid does not"
    ):
        build_dataset("camvid", "train", tmp_path, classes=32)[0]


def test_camvid_merges_32_to_the_eleven_of_segnet(tmp_path: Path) -> None:
    from semseg.data.camvid import LABELS, original_labels

    eleven, table = original_labels(11), class_table("camvid")
    assert eleven.names == LABELS.names
    np.testing.assert_array_equal(eleven.colors, LABELS.colors)
    train = {label.raw_id: label.train_id for label in eleven.labels}
    merged = {label.name: train[label.raw_id] for label in table.labels}
    assert len(train) == 32
    assert [name for name, i in merged.items() if i is None] == ["Void"]
    assert {n for n, i in merged.items() if i == 8} == {
        *("Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus")
    }
    assert merged["TrafficLight"] == merged["Misc_Text"] == LABELS.names.index("sign")
    m.camvid(tmp_path, (0, 11))
    with pytest.raises(InputError, match="has the SegNet form of camvid, which has 11 classes; fo"):
        build_dataset("camvid", "train", tmp_path, classes=32)


def test_pascal_context_numbers_are_those_of_the_459() -> None:
    from semseg.data.pascal_context import label_map

    official = {x.name: x.raw_id for x in label_map(official=True, background=True).classes}
    known = {"aeroplane": 2, "bedclothes": 19, "cloth": 80, "ground": 189, "person": 284}
    assert {name: official[name] for name in known} == known
    assert list(official.values()) == sorted(official.values())
    png = label_map(official=False, background=True)
    assert png.names == tuple(official)
    assert label_map(official=True, background=False).names == png.names[1:]


def test_cityscapes_extra_is_coarse(tmp_path: Path) -> None:
    m.cityscapes(tmp_path, (7,))
    with pytest.raises(InputError, match="train_extra has coarse annotations only; set annotation"):
        build_dataset("cityscapes", "train_extra", tmp_path)
    with pytest.raises(
        FileError, match=r"folder .*gtCoarse.train does not exist; wanted leftImg8b"
    ):
        build_dataset("cityscapes", "train", tmp_path, annotations="coarse")


# ---- JSON files --------------------------------------------------------------------------------


def test_panoptic_json_of_something_else(tmp_path: Path) -> None:
    m.coco_panoptic(tmp_path, (0, 1))
    file = tmp_path / "annotations/panoptic_train2017.json"
    data = json.loads(file.read_text())
    before = build_dataset("coco_panoptic", "train", tmp_path).fingerprint()
    data["annotations"][0]["segments_info"][0]["category_id"] = 2
    file.write_text(json.dumps(data))
    assert build_dataset("coco_panoptic", "train", tmp_path).fingerprint() != before
    data["categories"][1]["name"] = "carpet"
    file.write_text(json.dumps(data))
    with pytest.raises(
        InputError, match="category 200 is 'carpet', but COCO panoptic has 'rug-mer"
    ):
        build_dataset("coco_panoptic", "train", tmp_path)
    file.write_text('{"images": []}')
    with pytest.raises(FileError, match=r"train2017\.json is not a COCO panoptic file: KeyError"):
        build_dataset("coco_panoptic", "train", tmp_path)


def test_mapillary_config(tmp_path: Path) -> None:
    m.mapillary(tmp_path, (0, 1, 2))
    dataset = build_dataset("mapillary_vistas", "train", tmp_path)
    assert dataset.labels.names == ("Bird", "object--pole", "object--pole-group")
    assert any("config_v1.2.json has 4 labels, officially 66" in note for note in dataset.notes)
    with pytest.raises(FileError, match=r"folder .*v2\.0.labels does not exist; wanted training/"):
        build_dataset("mapillary_vistas", "train", tmp_path, version="v2.0")
    (tmp_path / "config_v1.2.json").write_text('{"labels": [{"readable": "Bird"}]}')
    with pytest.raises(FileError, match=r"v1\.2\.json is not a config of Mapillary Vistas: KeyErr"):
        build_dataset("mapillary_vistas", "train", tmp_path)


# ---- layouts -----------------------------------------------------------------------------------


def test_outer_folders(tmp_path: Path) -> None:
    m.ade20k(tmp_path / "ADEChallengeData2016", (1,))
    m.kitti(tmp_path / "data_semantics", (7,))
    for name, inner in (("ade20k", "ADEChallengeData2016"), ("kitti", "data_semantics")):
        outside = build_dataset(name, "train", tmp_path)
        assert outside.fingerprint() == build_dataset(name, "train", tmp_path / inner).fingerprint()


def test_davis_without_lists(tmp_path: Path) -> None:
    m.davis(tmp_path, (0, 1))
    (tmp_path / "ImageSets/2017").rename(tmp_path / "lists")
    (tmp_path / "ImageSets").rmdir()
    train = build_dataset("davis", "train", tmp_path)
    assert len(train) == 6
    assert train.notes[-1] == f"{tmp_path} has no ImageSets, so all its sequences are train"
    with pytest.raises(FileError, match=r"ImageSets.2017.val\.txt does not exist, nor does .*480p"):
        build_dataset("davis", "val", tmp_path)


def test_davis_of_two_years_in_one_folder(tmp_path: Path) -> None:
    m.davis(tmp_path, (0, 1))
    m.listing(tmp_path / "ImageSets/2016/train.txt", ["bus"])
    both = [build_dataset("davis", "train", tmp_path, year=year) for year in (2016, 2017)]
    assert [{Path(x.path(i)).parent.name for i in range(len(x))} for x in both] == [
        {"bus"},
        {"bear", "bus"},
    ]


def test_drive_without_labels_of_test(tmp_path: Path) -> None:
    m.drive(tmp_path, (0, 255, 1))
    for file in (tmp_path / "test/1st_manual").iterdir():
        file.unlink()
    with pytest.raises(
        FileError, match=r"01_manual1\.gif does not exist \(and 9 more files do not"
    ):
        build_dataset("drive", "test", tmp_path)
    m.mask(tmp_path / "training/mask/21_training_mask.gif", np.full((3, 3), 255, np.uint8))
    with pytest.raises(
        InputError, match=r"field of view .*21_training_mask\.gif is 3 x 3, but .*5"
    ):
        build_dataset("drive", "train", tmp_path)[0]
    before = build_dataset("drive", "train", tmp_path).fingerprint()
    assert build_dataset("drive", "train", tmp_path, field_of_view=False).fingerprint() != before
    m.drive(tmp_path, (0, 255, 1))
    assert build_dataset("drive", "train", tmp_path).fingerprint() != before
    (tmp_path / "training/mask/22_training_mask.gif").unlink()
    with pytest.raises(FileError, match=r"22_training_mask\.gif does not exist; wanted training/"):
        build_dataset("drive", "train", tmp_path)


def test_isbi_volumes(tmp_path: Path) -> None:
    m.isbi_volume(tmp_path, (0, 255))
    val = build_dataset("isbi2012", "val", tmp_path)
    assert names(val) == ["24", "25", "26", "27", "28", "29"]
    assert (val.channels, tuple(val[0].image.shape)) == (1, (1, 5, 8))
    m.isbi_files(tmp_path / "files", (0, 255))
    files = build_dataset("isbi2012", "val", tmp_path / "files")
    assert names(files) == names(val)  # by number, not 3 after 29
    for one, other in zip(val, files, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.mask, other.mask)
    (tmp_path / "train-labels.tif").write_bytes(b"II*")
    with pytest.raises(FileError, match=r"train-labels\.tif cannot be read: .*; copy it again"):
        build_dataset("isbi2012", "val", tmp_path)
    with pytest.raises(
        FileError, match=r"labels\.tif.29 cannot be read: .*; copy the volume again"
    ):
        val[5]
    (tmp_path / "train-labels.tif").unlink()
    with pytest.raises(FileError, match=r"train-labels\.tif does not exist; wanted train-volume"):
        build_dataset("isbi2012", "val", tmp_path)


# ---- NYUv2 -------------------------------------------------------------------------------------


def write_nyu_original(root: Path) -> None:
    """Write 300 images in the axes of the original file: columns before rows."""
    h5py = pytest.importorskip("h5py", reason="reading the original file takes h5py")
    images = np.zeros((300, 3, 8, 5), np.uint8)
    images[:, 1, 7, 0] = np.arange(300) % 251
    labels = np.zeros((300, 8, 5), np.uint16)
    labels[:, 7, 0] = 894
    labels[:, 0, 4] = 2
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"], file["labels"] = images, labels
    mapping = np.full((1, 894), 40, np.uint8)
    mapping[0, 1] = 7
    save_mat(root / "classMapping40.mat", "mapClass", mapping)
    numbers = np.arange(1.0, 301.0)[:, None]
    save_mat(root / "splits.mat", "trainNdxs", numbers[:260])
    train = (root / "splits.mat").read_bytes()
    save_mat(root / "splits.mat", "testNdxs", numbers[260:])
    # the variables of a file stand one after the other behind one header
    (root / "splits.mat").write_bytes(train + (root / "splits.mat").read_bytes()[128:])


def test_nyu_original_file(tmp_path: Path) -> None:
    write_nyu_original(tmp_path)
    train, val = (build_dataset("nyu_v2", split, tmp_path) for split in ("train", "val"))
    assert (len(train), len(val)) == (210, 50)
    assert names(val)[:2] == ["0201", "0202"]
    assert names(build_dataset("nyu_v2", "test", tmp_path)) == [f"0{i}" for i in range(261, 301)]
    sample = val[0]
    assert tuple(sample.image.shape) == (3, 5, 8)
    assert int(sample.image[1, 0, 7]) == 200
    expected = np.full((5, 8), 255)
    expected[0, 7], expected[4, 0] = 39, 6
    np.testing.assert_array_equal(sample.mask, expected)
    assert train.fingerprint() != val.fingerprint()
    assert len(build_dataset("nyu_v2", "train", tmp_path, whole_train=True)) == 260
    save_mat(tmp_path / "classMapping40.mat", "mapClass", np.ones((1, 800), np.uint8))
    with pytest.raises(
        InputError, match=r"0001: holds the id 894, but classMapping40\.mat ends at"
    ):
        build_dataset("nyu_v2", "train", tmp_path)[0]
    (tmp_path / "classMapping40.mat").unlink()
    with pytest.raises(FileError, match=r"classMapping40\.mat does not exist; wanted data/images"):
        build_dataset("nyu_v2", "train", tmp_path)


def test_nyu_original_file_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"")
    with pytest.raises(InputError, match="which takes the package h5py; install it with pip insta"):
        build_dataset("nyu_v2", "train", tmp_path)
