"""``semseg convert``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semseg.cli import main

CLASSES = """classes:
- background
- {name: sky, color: [0, 0, 250]}
- {name: void, id: 255, color: [0, 0, 0], ignore: true}
"""
IDS = np.array([[0, 1, 1], [255, 1, 1]], np.uint8)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    (tmp_path / "masks").mkdir()
    Image.fromarray(IDS).save(tmp_path / "masks/a.png")
    (tmp_path / "classes.yaml").write_text(CLASSES)
    return tmp_path / "classes.yaml"


def test_masks_to_coco_and_back(
    classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--classes", str(classes)]
    out = tmp_path / "all.json"
    assert main(["convert", str(tmp_path / "masks"), str(out), "--to", "coco", *options]) == 0
    said = capsys.readouterr().out
    assert f"1 images from ids to coco, every pixel the same; written to {out}" in said
    assert json.loads(out.read_text())["images"][0]["file_name"] == "a.png"
    back = ["convert", str(out), str(tmp_path / "back"), "--from", "coco", "--to", "rgb", *options]
    assert main(back) == 2  # void and background are both black
    classes.write_text(CLASSES.replace("color: [0, 0, 0]", "color: [9, 9, 9]"))
    assert main(back) == 0
    with Image.open(tmp_path / "back/a.png") as image:
        assert image.getpixel((1, 0)) == (0, 0, 250)
    again = ["convert", str(tmp_path / "back"), str(tmp_path / "ids"), "--to", "ids", *options]
    assert main(again) == 0
    with Image.open(tmp_path / "ids/a.png") as image:
        np.testing.assert_array_equal(np.array(image), IDS)


def test_mistakes(classes: Path, tmp_path: Path, mistake: Callable[..., str]) -> None:
    def said(to: str, out: str, *more: str) -> str:
        source = tmp_path / "masks"
        return mistake("convert", source, tmp_path / out, "--to", to, "--classes", classes, *more)

    assert "unknown label format 'labelmee'; did you mean 'labelme'?" in said("labelmee", "o")
    assert "class 'grund' is not in the label map" in said("yolo", "o", "--background", "grund")
    assert "cannot tell 'background' from 'void'" in said("rgb", "o")
    assert "a.png exists; choose another place" in said("palette", "masks")
    assert "masks holds no .xml files" in said("ids", "o", "--from", "cvat")
    (tmp_path / "classes.yaml").write_text("classes: [background, sky]")
    assert "a.png: holds the ids 255 (1 pixels), which the label map does not" in said("ids", "o")
    (tmp_path / "classes.yaml").unlink()
    assert "classes.yaml does not exist; write one" in said("ids", "o")
