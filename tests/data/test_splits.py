"""Each split of a public dataset is made of the files that belong to it, and every id is known.

The expectations are from the papers and the official scripts, as in :mod:`tests.data.forms`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from semseg.data import build_dataset, dataset_entry, list_datasets
from semseg.data.public import class_table
from tests.data.forms import FORMS
from tests.data.miniatures import Miniature

FILES = {
    "ade20k": {"train": r"training/ADE_train_\d+", "val": r"validation/ADE_val_\d+"},
    "camvid": {"train": "0016E5_train[0-2]", "val": "0016E5_val[0-2]"},
    "cityscapes": {
        split: f"{split}/{split}city/{split}city_[0-9_]+_leftImg8bit"
        for split in ("train", "val", "train_extra")
    },
    "coco_panoptic": {"train": "train2017/00000000000[0-2]", "val": "val2017/00000000001[0-2]"},
    "coco_stuff": {"train": r"train2017/False\d+", "val": r"val2017/True\d+"},
    "davis": {"train": "480p/(bear|bus)/0000[01]", "val": "480p/cows/0000[01]"},
    "drive": {
        "train": "training/images/2[1-8]_training",
        "val": "training/images/(29|30)_training",
        "test": "test/images/(0[1-9]|10)_test",
    },
    "isbi2012": {"train": "(0?[0-9]|1[0-9]|2[0-3])", "val": "2[4-9]"},
    "kitti": {"train": "00000[0-7]_10", "val": "00000[89]_10"},
    "mapillary_vistas": {"train": "training/images/training_[0-2]", "val": "validation_[0-2]"},
    "nyu_v2": {"train": "img_500[0-2]", "val": "img_501[0-2]", "test": "img_502[0-2]"},
    "pascal_context": {"train": "2008_00000[0-2]", "val": "2008_00001[0-2]"},
    "sun_rgbd": {
        "train": r"train/img-000([01]\d\d|200|25[1-9]|260)",
        "val": r"train/img-000(20[1-9]|2[1-4]\d|250)",
        "test": "test/img-00000[12]",
    },
    "voc2012": {"train": "(2007|2009)_00000[0-2]", "val": "2008_00000[0-2]"},
}
"""How the images of each split end in the miniatures, without suffix."""


forms = pytest.mark.parametrize(
    "form", [form for form in FORMS if form.name in FILES], ids=lambda form: form.id
)


def whole(form: Miniature, split: str) -> bool:
    return split == "trainval" or (split == "train" and bool(form.settings.get("whole_train")))


def test_every_public_dataset_is_here() -> None:
    entries = map(dataset_entry, list_datasets())
    assert FILES.keys() == {x.name for x in entries if x.citation and x.holds == "images"}


@forms
def test_files_of_the_splits(form: Miniature, tmp_path: Path) -> None:
    form.write(tmp_path, form.raw)
    for split in form.lengths:
        dataset = build_dataset(form.name, split, tmp_path, **form.settings)
        known = FILES[form.name]
        ends = [known[split]] if not whole(form, split) else [known["train"], known["val"]]
        for image, _ in dataset.pairs:
            stem = image.with_suffix("").as_posix()
            assert any(re.search(f"(^|/)({end})$", stem) for end in ends), stem


OFFICIAL = {
    "ade20k": {"train": 20210, "val": 2000},
    "camvid": {"train": 367, "val": 101},
    "cityscapes": {"train": 2975, "val": 500, "train_extra": 19998},
    "coco_panoptic": {"train": 118287, "val": 5000},
    "coco_stuff": {"train": 118287, "val": 5000},
    "davis": {"train": 4219, "val": 2023},
    "davis-year=2016": {"train": 2079, "val": 1376},
    "drive": {"train": 16, "val": 4, "test": 20},
    "isbi2012": {},  # its miniature is complete
    "kitti": {"train": 160, "val": 40},
    "kitti-whole_train=True": {"train": 200, "val": 40},
    "mapillary_vistas": {"train": 18000, "val": 2000},
    "nyu_v2": {"train": 381, "val": 414, "test": 654},
    "nyu_v2-whole_train=True": {"train": 795, "val": 414},
    "pascal_context": {"train": 4998, "val": 5105},
    "sun_rgbd": {"train": 4235, "val": 1050, "test": 5050},
    "sun_rgbd-whole_train=True": {"train": 5285, "val": 1050, "test": 5050},
    "voc2012": {"train": 1464, "val": 1449, "trainval": 2913},
    "voc2012-augmented=True": {"train": 10582, "val": 1449},
}
"""Images of each split as published, or a fifth of them where val is taken from train."""


@forms
def test_official_numbers(form: Miniature, tmp_path: Path) -> None:
    form.write(tmp_path, form.raw)
    numbers = OFFICIAL.get(form.id, OFFICIAL[form.name])
    for split in form.lengths.keys() & numbers.keys():
        notes = build_dataset(form.name, split, tmp_path, **form.settings).notes
        assert any(f", officially {numbers[split]};" in note for note in notes), notes


TRAIN_IDS = {
    # helpers/labels.py of cityscapesScripts, ids 0 … 33
    "cityscapes": [
        *(None,) * 7,
        *(0, 1, None, None, 2, 3, 4, None, None, None, 5, None, 6, 7),
        *(8, 9, 10, 11, 12, 13, 14, 15, None, None, 16, 17, 18),
    ],
    "ade20k": [None, *range(150)],
    "nyu40": [None, *range(40)],
    "camvid": [*range(30), None, 30],
    "coco_stuff": [
        *range(11),
        *(None, *range(11, 24), None, 24, 25, None, None, *range(26, 40), None, *range(40, 60)),
        *(None, 60, None, None, 61, None, *range(62, 73), None, *range(73, 80), None),
        *range(80, 171),
    ],
    "pascal_context": list(range(60)),
}
"""Train id of every raw id from 0 on; ``None`` counts for nothing or does not occur."""


@pytest.mark.parametrize("table", TRAIN_IDS)
def test_every_id_of_the_class_tables(table: str) -> None:
    held = {label.raw_id: label.train_id for label in class_table(table).labels}
    wanted = TRAIN_IDS[table]
    assert [held.get(i) for i in range(len(wanted))] == wanted
    assert {i for i in held if i >= len(wanted)} <= {255}
    assert held.get(255) is None


NAMES = {
    "cityscapes": (
        "road|sidewalk|building|wall|fence|pole|traffic light|traffic sign|vegetation|terrain|sky|"
        "person|rider|car|truck|bus|train|motorcycle|bicycle"
    ),
    "kitti": (
        "road|sidewalk|building|wall|fence|pole|traffic light|traffic sign|vegetation|terrain|sky|"
        "person|rider|car|truck|bus|train|motorcycle|bicycle"
    ),
    "nyu_v2": (
        "wall|floor|cabinet|bed|chair|sofa|table|door|window|bookshelf|picture|counter|blinds|desk|"
        "shelves|curtain|dresser|pillow|mirror|floor mat|clothes|ceiling|books|refrigerator|"
        "television|paper|towel|shower curtain|box|whiteboard|person|night stand|toilet|sink|lamp|"
        "bathtub|bag|otherstructure|otherfurniture|otherprop"
    ),
    "camvid": "sky|building|pole|road|pavement|tree|sign|fence|car|pedestrian|bicyclist",
}
SORTED_FROM = {"voc2012": 1, "pascal_context": 1, "coco_stuff": 80}
"""From which train id on the names are in the order of the alphabet."""


@pytest.mark.parametrize("name", [*NAMES, *SORTED_FROM])
def test_names_in_the_order_of_their_ids(name: str, tmp_path: Path) -> None:
    form = next(form for form in FORMS if form.name == name)
    form.write(tmp_path, form.raw)
    names = build_dataset(form.name, "train", tmp_path, **form.settings).labels.names
    if name in NAMES:
        assert "|".join(names) == NAMES[name]
    else:
        rest = [word.lower() for word in names[SORTED_FROM[name] :]]
        assert rest == sorted(rest)
