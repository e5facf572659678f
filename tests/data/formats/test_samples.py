"""Real files: masks of LabelMe's own converter and COCO's panoptic examples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.core.labels import Label, LabelMap
from semseg.data.formats import convert, label_format, read_annotations

SAMPLES = Path(__file__).parents[4] / "shared/data/samples"
LABELME, PANOPTIC = SAMPLES / "labelme", SAMPLES / "coco_panoptic"

needs_labelme = pytest.mark.skipif(not LABELME.is_dir(), reason=f"{LABELME} is absent")
needs_panoptic = pytest.mark.skipif(not PANOPTIC.is_dir(), reason=f"{PANOPTIC} is absent")


def worst_iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Return the IoU of the class that fits worst."""
    ious = [
        ((mask == i) & (truth == i)).sum() / ((mask == i) | (truth == i)).sum()
        for i in np.unique(np.stack([mask, truth]))
    ]
    return float(min(ious))


def voc_labels(folder: Path) -> LabelMap:
    names = (folder / "data_dataset_voc/class_names.txt").read_text().splitlines()
    return LabelMap.from_names(names, ignore={255: "__ignore__"})


def voc_mask(folder: Path, image: str) -> np.ndarray:
    file = folder / "data_dataset_voc/SegmentationClass" / f"{Path(image).stem}.png"
    return np.array(Image.open(file))


@needs_labelme
@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_labelme_files_give_the_masks_of_labelme(kind: str) -> None:
    folder = LABELME / f"{kind}_segmentation"
    found = read_annotations(folder / "data_annotated")
    assert len(found) == 3
    for annotation in found:
        mask = annotation.ids(voc_labels(folder))
        truth = voc_mask(folder, annotation.image)
        assert worst_iou(mask, truth) >= 0.9999
        assert (mask != truth).sum() <= 1


@needs_labelme
def test_coco_form_of_labelme_follows_the_rule_of_centres() -> None:
    """LabelMe draws outlines half a pixel wider, so small shapes fit less."""
    folder = LABELME / "instance_segmentation"
    labels = voc_labels(folder)
    for annotation in read_annotations(folder / "data_dataset_coco/annotations.json"):
        mask, truth = (
            annotation.ids(labels, background="_background_"),
            voc_mask(folder, annotation.image),
        )
        known = truth != 255  # LabelMe leaves what is ignored out of its COCO files
        assert (mask[known] == truth[known]).mean() > 0.98


@needs_labelme
@pytest.mark.parametrize("kind", ["coco", "cvat", "yolo", "geojson"])
def test_labelme_through_other_formats_and_back(kind: str, tmp_path: Path) -> None:
    folder = LABELME / "semantic_segmentation"
    labels, entry = voc_labels(folder), label_format(kind)
    images = folder / "data_annotated"
    middle = tmp_path / "all"
    middle = middle.with_suffix(entry.suffixes[0]) if entry.many else middle
    convert(images, middle, kind, labels, images=images)
    convert(middle, tmp_path / "back", "palette", labels, images=images)
    for annotation in read_annotations(images):
        back = np.array(Image.open(tmp_path / "back" / f"{Path(annotation.image).stem}.png"))
        np.testing.assert_array_equal(back, annotation.ids(labels))


def panoptic_labels() -> LabelMap:
    categories = json.loads((PANOPTIC / "panoptic_coco_categories.json").read_text())
    known = [Label(c["name"], c["id"], i, tuple(c["color"])) for i, c in enumerate(categories)]
    return LabelMap((*known, Label("void", 0, None, (0, 0, 0))))


@needs_panoptic
def test_panoptic_equals_the_two_channel_form() -> None:
    labels = panoptic_labels()
    found = read_annotations(PANOPTIC / "panoptic_examples.json")
    assert len(found) == 2
    for annotation in found:
        file = PANOPTIC / "panoptic_examples_2ch_format" / f"{Path(annotation.image).stem}.png"
        two = np.array(Image.open(file))
        np.testing.assert_array_equal(annotation.ids(labels), two[..., 0])


@needs_panoptic
def test_detection_form_equals_the_panoptic_form() -> None:
    labels = panoptic_labels()
    runs = read_annotations(PANOPTIC / "panoptic_coco_detection_format.json")
    by_image = {annotation.image: annotation for annotation in runs}
    for annotation in read_annotations(PANOPTIC / "panoptic_examples.json"):
        other = by_image[annotation.image].ids(labels)
        np.testing.assert_array_equal(other, annotation.ids(labels))
