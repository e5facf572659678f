"""Real files of the public datasets, where they are: they load, draw and score 100 %."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semseg.core.checks import InputError
from semseg.data import build_dataset
from semseg.data.images import read_mask
from semseg.metrics import ConfusionMatrix

REAL = Path(__file__).parents[3] / "shared/data"
SAMPLES = REAL / "samples"

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no real files at {REAL}")


def in_place(folder: str) -> Callable[[Path], Path]:
    return lambda _: REAL / folder


def linked(links: dict[str, str]) -> Callable[[Path], Path]:
    """Give the official layout to samples that are laid out otherwise."""

    def make(root: Path) -> Path:
        for place, source in links.items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).symlink_to(SAMPLES / source)
        return root

    return make


PANOPTIC = {
    "val2017": "coco_panoptic/input_images",
    "annotations/panoptic_val2017": "coco_panoptic/panoptic_examples",
    "annotations/panoptic_val2017.json": "coco_panoptic/panoptic_examples.json",
}
STUFF = {
    f"{kind}/{split}2017": f"coco_stuff/{split}_{folder}"
    for split in ("train", "val")
    for kind, folder in (("images", "img"), ("annotations", "label"))
}
CASES = {
    "ade20k train": (in_place("samples/ade20k"), {}, 1, {"wall", "floor"}),
    "ade20k val": (in_place("samples/ade20k"), {}, 3, {"building", "sky", "tree"}),
    "camvid train": (in_place("camvid"), {}, 367, {"sky", "road", "building", "car"}),
    "cityscapes train": (in_place("samples/cityscapes"), {}, 8, {"road", "sky", "car"}),
    "coco_panoptic val": (linked(PANOPTIC), {}, 2, {"person", "tree-merged"}),
    "coco_stuff train": (linked(STUFF), {}, 13, {"person"}),
    "coco_stuff val": (linked(STUFF), {}, 8, {"person"}),
    "davis train": (in_place("samples/davis"), {"year": 2016}, 40, {"background", "object"}),
    "drive train": (in_place("drive"), {}, 16, {"background", "vessel"}),
    "drive val": (in_place("drive"), {}, 4, {"background", "vessel"}),
    "isbi2012 train": (in_place("isbi2012"), {}, 24, {"membrane", "cell"}),
    "isbi2012 val": (in_place("isbi2012"), {}, 6, {"membrane", "cell"}),
    "sun_rgbd train": (in_place("samples/sunrgbd"), {"void": 255}, 1, {"wall", "floor"}),
}


@pytest.mark.parametrize("case", CASES)
def test_loads_draws_and_scores_100_percent_against_itself(case: str, tmp_path: Path) -> None:
    make, settings, count, expected = CASES[case]
    name, split = case.split()
    dataset = build_dataset(name, split, make(tmp_path / "root"), **settings)
    assert len(dataset) == count
    labels = dataset.labels
    matrix = ConfusionMatrix(labels.num_classes, labels.ignore_id)
    seen: set[str] = set()
    for index in sorted({0, count // 2, count - 1}):
        sample = dataset[index]
        mask = sample.mask.numpy()
        held = set(np.unique(mask).tolist()) - {labels.ignore_id}
        seen |= {labels.names[i] for i in held}
        drawn = labels.colorize(mask)
        for i in held:
            assert (drawn[mask == i] == labels.colors[i]).all()
        assert not drawn[mask == labels.ignore_id].any()
        file = tmp_path / "prediction.png"  # as predictions are written: raw ids
        whole = np.where(mask == labels.ignore_id, 0, mask)
        Image.fromarray(labels.decode(whole)).save(file)
        matrix.update(torch.from_numpy(labels.encode(read_mask(file))), sample.mask)
    assert expected <= seen
    scores = matrix.scores()
    assert scores.miou == scores.accuracy == 1
    if name in ("camvid", "drive", "isbi2012"):
        assert not any("officially" in note for note in dataset.notes)


def test_coco_panoptic_equals_the_two_channel_form(tmp_path: Path) -> None:
    """The sample's own other form holds the category in its first channel."""
    dataset = build_dataset("coco_panoptic", "val", linked(PANOPTIC)(tmp_path))
    folder = SAMPLES / "coco_panoptic/panoptic_examples_2ch_format"
    for index in range(len(dataset)):
        file = folder / f"{Path(dataset.path(index)).stem}.png"
        categories = np.asarray(Image.open(file))[..., 0]
        expected = dataset.labels.encode(np.array(categories))
        np.testing.assert_array_equal(dataset[index].mask, expected)


def test_coco_panoptic_classes_are_those_of_its_json(tmp_path: Path) -> None:
    labels = build_dataset("coco_panoptic", "val", linked(PANOPTIC)(tmp_path)).labels
    listed = json.loads((SAMPLES / "coco_panoptic/panoptic_coco_categories.json").read_text())
    expected = [(c["id"], c["name"], tuple(c["color"])) for c in listed]
    assert [(x.raw_id, x.name, x.color) for x in labels.classes] == expected


def test_the_sun_rgbd_sample_is_off_by_one_and_refused_as_official() -> None:
    with pytest.raises(InputError, match=r"png holds the id 255, so void is 255 in it and not 0"):
        build_dataset("sun_rgbd", "train", SAMPLES / "sunrgbd")
