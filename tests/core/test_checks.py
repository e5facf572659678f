"""Messages: what came, what was wanted, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from semseg.core.checks import (
    FileError,
    InputError,
    SemsegError,
    SettingError,
    UnknownNameError,
    check_folder,
    check_images,
    check_num_classes,
    nearest,
    ranges,
    unknown_name,
    unknown_setting,
)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (InputError, ValueError),
        (SettingError, TypeError),
        (UnknownNameError, KeyError),
        (FileError, ValueError),
    ],
)
def test_errors_are_of_the_kind_python_expects(
    kind: type[SemsegError], builtin: type[Exception]
) -> None:
    error = kind("what came; what to do")
    assert isinstance(error, builtin)
    assert isinstance(error, SemsegError)
    assert str(error) == "what came; what to do"  # KeyError alone would add quotes


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("unett", ["unet", "fcn"], "did you mean 'unet'?"),
        ("unet", ["unet2", "unet3"], "did you mean 'unet3' or 'unet2'?"),
        ("x", [], "there are none"),
        ("x", ["fcn", "enet"], "known: 'enet', 'fcn'"),
    ],
)
def test_nearest(name: str, known: list[str], text: str) -> None:
    assert nearest(name, known) == text


def test_nearest_shows_twelve_of_many() -> None:
    hint = nearest("?", [f"name{i:02}" for i in range(20)])
    assert hint.startswith("known: 'name00', 'name01'")
    assert hint.endswith("'name11', …")


def test_ranges() -> None:
    assert ranges([3, 1, 2, 9]) == "1-3, 9"
    assert ranges([]) == ""


def test_unknown_name() -> None:
    error = unknown_name("network", "deeplab", ["deeplab_v3", "unet"])
    assert str(error) == "unknown network 'deeplab'; did you mean 'deeplab_v3'?"


def test_unknown_setting_lists_what_there_is() -> None:
    error = unknown_setting("unet", ["widht", "zoom"], ["width", "depth"])
    assert str(error) == (
        "unet has no setting 'widht' (nor 'zoom'); did you mean 'width'? (it has depth, width)"
    )


def test_num_classes() -> None:
    check_num_classes("unet", 1)
    with pytest.raises(InputError) as caught:
        check_num_classes("unet", 0)
    assert str(caught.value) == (
        "unet needs num_classes >= 1, got 0; use 1 for a binary network with one sigmoid channel"
    )


@pytest.mark.parametrize(
    ("images", "kind", "text"),
    [
        (
            torch.zeros(3, 8, 8),
            InputError,
            "unet takes images of shape (N, 3, H, W), got (3, 8, 8); "
            "add the batch dimension with images[None]",
        ),
        (
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
            SettingError,
            "unet takes normalised float images, got torch.uint8; "
            "apply the network's preprocessing first",
        ),
        (
            torch.zeros(1, 4, 8, 8),
            InputError,
            "unet takes 3 channels, got 4; create it with in_channels=4",
        ),
        (
            torch.zeros(1, 3, 7, 8),
            InputError,
            "unet takes images of at least 8 x 8 pixels, got 7 x 8; enlarge or pad them",
        ),
    ],
)
def test_images(images: torch.Tensor, kind: type[SemsegError], text: str) -> None:
    check_images("unet", torch.zeros(2, 3, 8, 9), channels=3, min_size=8)
    with pytest.raises(kind) as caught:
        check_images("unet", images, channels=3, min_size=8)
    assert str(caught.value) == text


def test_folder(tmp_path: Path) -> None:
    assert check_folder(tmp_path, "data") == tmp_path
    (tmp_path / "train").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileError) as caught:
        check_folder(tmp_path / "val" / "images", "camvid root")
    assert str(caught.value) == (
        f"camvid root {tmp_path}/val/images does not exist; the nearest folder is {tmp_path} "
        "(it holds notes.txt, train)"
    )
    with pytest.raises(FileError) as caught:
        check_folder(tmp_path / "notes.txt", "camvid root")
    assert str(caught.value) == f"camvid root {tmp_path}/notes.txt is a file; give a folder"
