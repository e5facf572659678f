"""Every defect the doctor must find, planted one at a time into a sound folder of scenes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.data import build_dataset
from semseg.data.doctor import Diagnosis, diagnose
from semseg.data.doctor.page import write_all
from semseg.data.synthetic import LABELS

SIZE = (96, 128)
NUMBERS = {"train": 10, "val": 4}


def write_yaml(root: Path, void: bool = True) -> None:
    data = LABELS.to_dict()
    if void:
        data["classes"].append({"name": "void", "id": 255, "color": [0, 0, 0], "ignore": True})
    (root / "classes.yaml").write_text(json.dumps(data))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of rendered scenes without a defect."""
    root = tmp_path_factory.mktemp("sound")
    write_yaml(root)
    for split, number in NUMBERS.items():
        scenes = build_dataset("synthetic", split, length=number, size=SIZE, difficulty="easy")
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(number):
            pixels = scenes[i].image.permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / f"images/{split}/{i}.png")
            Image.fromarray(scenes[i].mask.numpy()).save(root / f"masks/{split}/{i}.png")
    return root


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "data")


def image(root: Path, i: int = 3, split: str = "train") -> Path:
    return root / f"images/{split}/{i}.png"


def mask(root: Path, i: int = 3, split: str = "train") -> Path:
    return root / f"masks/{split}/{i}.png"


def change(file: Path, to: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(to(np.array(Image.open(file)))).save(file)


def change_all(root: Path, to: Callable[[np.ndarray], np.ndarray]) -> None:
    for file in sorted((root / "masks").rglob("*.png")):
        change(file, to)


def as_format(file: Path, form: str, mode: str | None = None, **settings: object) -> None:
    """Write a file again in another format or mode, under its old name."""
    picture = Image.open(file)
    picture.load()
    (picture if mode is None else picture.convert(mode)).save(file, format=form, **settings)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2000])


def moved(file: Path, suffix: str) -> Path:
    return file.rename(file.with_suffix(suffix))


def swap(a: Path, b: Path) -> None:
    a_bytes, b_bytes = a.read_bytes(), b.read_bytes()
    a.write_bytes(b_bytes)
    b.write_bytes(a_bytes)


def exif_turned(root: Path) -> None:
    """The camera stored the scene lying on its side; the mask was drawn on the stored pixels."""
    tag = Image.Exif()
    tag[0x0112] = 6
    as_format(image(root), "PNG", exif=tag)


def exif_half_turned(root: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 3
    as_format(image(root), "PNG", exif=tag)


def animated(root: Path) -> None:
    frame = Image.open(image(root))
    frame.save(image(root), save_all=True, append_images=[frame.rotate(90), frame.rotate(180)])


def twin(root: Path, exact: bool) -> None:
    shutil.copy(mask(root), mask(root, 9, "val"))
    if exact:
        Image.open(image(root)).save(moved(image(root, 3, "train"), ".bmp"))
        Image.open(root / "images/train/3.bmp").save(image(root, 9, "val"))
        return
    smaller = Image.open(image(root)).resize((104, 78), Image.Resampling.BICUBIC)
    smaller.save(root / "images/val/9.jpg", quality=70)
    Image.open(mask(root)).resize((104, 78), Image.Resampling.NEAREST).save(mask(root, 9, "val"))


def grey_luma(root: Path) -> None:
    """The palette mask went through a program that keeps colours and writes grey."""
    colored = Image.fromarray(LABELS.colorize(np.array(Image.open(mask(root)))))
    colored.convert("L").save(mask(root))


def numbered_anew(root: Path) -> None:
    """A program counted the colours of a mask in an order of its own."""
    ids = np.array(Image.open(mask(root)))
    used = np.unique(ids)
    order = {int(old): new for new, old in enumerate(used[::-1])}
    new = Image.fromarray(np.vectorize(order.get)(ids).astype(np.uint8))
    new.putpalette([int(v) for old in used[::-1] for v in LABELS.colors[old]])
    new.save(mask(root))


def half_turned_mask(root: Path) -> None:
    swap(mask(root, 3), mask(root, 5))


def rolled(array: np.ndarray) -> np.ndarray:
    return np.roll(array, (0, 5), axis=(0, 1))


def without(name: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        number = LABELS.names.index(name)
        for file in (root / "masks/val").iterdir():
            change(file, lambda ids: np.where(ids == number, 0, ids))

    return plant


def lonely(kind: str) -> Callable[[Path], None]:
    return lambda root: (root / kind / "train/3.png").unlink()


def smooth(root: Path) -> None:
    """Made smaller and larger again as if ids were grey levels."""
    picture = Image.open(mask(root)).resize((64, 48), Image.Resampling.BILINEAR)
    picture.resize(SIZE[::-1], Image.Resampling.BILINEAR).save(mask(root))


def jpeg_once(root: Path) -> None:
    as_format(mask(root), "JPEG", quality=75)
    as_format(mask(root), "PNG")


def rgb_three_times(root: Path) -> None:
    as_format(mask(root), "PNG", "RGB")


def coloured(root: Path) -> None:
    Image.fromarray(LABELS.colorize(np.array(Image.open(mask(root))))).save(mask(root))


@dataclass(frozen=True)
class Defect:
    """How to plant it, and what must be said."""

    plant: Callable[[Path], object]
    check: str
    severity: str
    file: str | None = "masks/train/3.png"
    text: str = ""


DEFECTS = {
    "image without mask": Defect(
        lonely("masks"), "unpaired_image", "error", "images/train/3.png", "1 image without a mask"
    ),
    "mask without image": Defect(
        lonely("images"), "unpaired_mask", "error", text="1 mask without an image"
    ),
    "name in two cases": Defect(
        lambda r: (
            shutil.copy(image(r, 4), image(r).with_name("3.PNG")),
            shutil.copy(mask(r, 4), mask(r).with_name("3.PNG")),
        ),
        "same_name",
        "error",
        "images/train/3.PNG",
        "but for the suffix or for capital letters",
    ),
    "truncated image": Defect(
        lambda r: cut(image(r)), "damaged", "error", "images/train/3.png", "cannot be read"
    ),
    "truncated mask": Defect(lambda r: cut_mask(r), "damaged", "error", text="cannot be read"),
    "file of zero bytes": Defect(
        lambda r: image(r).write_bytes(b""), "empty_file", "error", "images/train/3.png"
    ),
    "text named .png": Defect(
        lambda r: image(r).write_text("not found"), "damaged", "error", "images/train/3.png"
    ),
    "PNG named .jpg": Defect(
        lambda r: moved(image(r), ".jpg"), "wrong_suffix", "warning", "images/train/3.jpg", "PNG"
    ),
    "image of a suffix not read": Defect(
        lambda r: Image.open(image(r)).save(root_file(r, "images/train/x.gif")),
        "not_read",
        "warning",
        "images/train/x.gif",
    ),
    "animated image": Defect(animated, "frames", "warning", "images/train/3.png"),
    "wrong size": Defect(
        lambda r: change(mask(r), lambda ids: ids[:-3]),
        "size_differs",
        "error",
        text=r"93 x 128 for 96 x 128",
    ),
    "EXIF rotation, mask not rotated": Defect(
        exif_turned, "exif_rotation", "error", "images/train/3.png"
    ),
    "EXIF half turn, mask not turned": Defect(
        exif_half_turned, "exif_rotation", "error", "images/train/3.png"
    ),
    "EXIF rotation of both": Defect(
        lambda r: (exif_half_turned(r), change(mask(r), lambda ids: ids[::-1, ::-1])),
        "exif_rotation",
        "warning",
        "images/train/3.png",
        "upright by an EXIF tag only",
    ),
    "image and mask swapped": Defect(
        lambda r: swap(image(r), mask(r)), "swapped_roles", "error", "images/train/3.png"
    ),
    "masks of two images exchanged": Defect(half_turned_mask, "exchanged_masks", "warning"),
    "constant shift": Defect(
        lambda r: change_all(r, rolled),
        "shifted_masks",
        "warning",
        text=r"moved by 0 pixels down and -5 to the right",
    ),
    "JPEG mask": Defect(lambda r: as_format(mask(r), "JPEG"), "jpeg_mask", "error"),
    "JPEG noise in a PNG mask": Defect(jpeg_once, "smeared_mask", "error"),
    "mask resized with interpolation": Defect(smooth, "smeared_mask", "error"),
    "RGB mask": Defect(coloured, "color_mask", "error", text="the colours are those of the class"),
    "ids three times": Defect(
        rgb_three_times, "color_mask", "error", text="three channels are equal: keep one"
    ),
    "alpha channel in mask": Defect(
        lambda r: as_format(mask(r), "PNG", "LA"), "alpha_mask", "error", text=r"\(LA\)"
    ),
    "palette lost": Defect(grey_luma, "palette_lost", "error"),
    "palette numbered anew": Defect(numbered_anew, "palette_order", "error"),
    "16-bit mask, stretched": Defect(
        lambda r: change(mask(r), lambda ids: ids.astype(np.uint16) * 257), "stretched_ids", "error"
    ),
    "16-bit mask among 8-bit ones": Defect(
        lambda r: change(mask(r), lambda ids: ids.astype(np.uint16)), "mask_depth", "warning"
    ),
    "unknown id": Defect(
        lambda r: change(mask(r), put_id), "unknown_ids", "error", text=r"\(77; listed are 0-7, 255"
    ),
    "off by one": Defect(
        lambda r: change_all(r, lambda ids: ids + 1), "off_by_one", "error", text=r"ids 8 are not"
    ),
    "off by one, all ids listed": Defect(
        lambda r: (
            (r / "classes.yaml").write_text(json.dumps(["zero", *LABELS.names])),
            change_all(r, lambda ids: ids + 1),
        ),
        "off_by_one",
        "warning",
        None,
        r"id 0 \(zero\) occurs in no mask",
    ),
    "void not listed": Defect(
        lambda r: (write_yaml(r, void=False), change(mask(r), lambda ids: put_id(ids, 255))),
        "void_not_listed",
        "error",
    ),
    "void that counts": Defect(
        lambda r: (r / "classes.yaml").write_text(json.dumps(["void", *LABELS.names[1:]])),
        "counted_void",
        "warning",
        None,
        r"id 0 \(void\) counts",
    ),
    "background that does not count": Defect(
        lambda r: change_all(r, lambda ids: np.where(ids == 1, 1, 255).astype(np.uint8)),
        "mostly_ignored",
        "warning",
        None,
    ),
    "empty mask": Defect(lambda r: change(mask(r), np.zeros_like), "empty_mask", "warning"),
    "mask of void only": Defect(
        lambda r: change(mask(r), lambda ids: np.full_like(ids, 255)), "void_mask", "warning"
    ),
    "class never in val": Defect(
        without("tree"), "absent_class", "warning", None, r"in val \(tree\), whose IoU"
    ),
    "duplicate in both splits": Defect(
        lambda r: twin(r, exact=True), "duplicate", "error", "images/val/9.png"
    ),
    "near duplicate in both splits": Defect(
        lambda r: twin(r, exact=False), "near_duplicate", "warning", "images/val/9.jpg"
    ),
    "image twice in one split": Defect(
        lambda r: (shutil.copy(image(r), image(r, 99)), shutil.copy(mask(r), mask(r, 99))),
        "repeated_image",
        "warning",
        "images/train/99.png",
    ),
    "all-black image": Defect(
        lambda r: change(image(r), np.zeros_like), "blank_image", "warning", "images/train/3.png"
    ),
    "grey image among colour": Defect(
        lambda r: as_format(image(r), "PNG", "L"), "grey_image", "warning", "images/train/3.png"
    ),
    "16-bit image among 8-bit ones": Defect(
        lambda r: change(image(r), lambda x: x[..., 0].astype(np.uint16) * 257),
        "bit_depth",
        "warning",
        "images/train/3.png",
    ),
    "CMYK image": Defect(
        lambda r: Image.open(image(r)).convert("CMYK").save(moved(image(r), ".jpg"), format="JPEG"),
        "colour_space",
        "warning",
        "images/train/3.jpg",
    ),
    "transparent image": Defect(
        lambda r: as_format(image(r), "PNG", "RGBA"), "alpha_image", "warning", "images/train/3.png"
    ),
}


MANY = ("shifted_masks", "off_by_one", "same_name")  # are of more than two files


def root_file(root: Path, name: str) -> Path:
    return root / name


def cut_mask(root: Path) -> None:
    mask(root).write_bytes(mask(root).read_bytes()[:-200])


def put_id(ids: np.ndarray, value: int = 77) -> np.ndarray:
    return np.concatenate([np.full_like(ids[:10], value), ids[10:]])


def said(found: Diagnosis) -> list[str]:
    return [f"{f.severity} {f.check}: {f.line()}" for f in found.findings]


def test_nothing_is_found_where_nothing_is(sound: Path) -> None:
    assert said(diagnose("folder", sound)) == []


@pytest.mark.parametrize("name", DEFECTS)
def test_planted_defect_is_found(name: str, root: Path, tmp_path: Path) -> None:
    defect = DEFECTS[name]
    defect.plant(root)
    found = diagnose("folder", root)
    (hit,) = [f for f in found.findings if f.check == defect.check]
    assert hit.severity == defect.severity, said(found)
    if defect.file is not None:
        assert str(root / defect.file) in hit.files
        assert len(hit.files) <= 2 or defect.check in MANY, hit.files
    assert re.search(defect.text, hit.message), hit.message
    write_all(found, tmp_path / "out")  # damaged files do not stop the page either


def test_enough_is_planted() -> None:
    assert len(DEFECTS) >= 25
    assert len({defect.check for defect in DEFECTS.values()}) >= 25
