"""Augmentation: image and mask move together, and nothing is invented."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torchvision import tv_tensors
from torchvision.transforms import v2

from semseg.core.labels import LabelMap
from semseg.data.transforms import AugmentConfig, build_transform
from semseg.data.transforms.geometric import resize
from semseg.data.transforms.photometric import ColorJitter

LABELS = LabelMap.from_names(["a", "b", "c"])
LEVELS = {0: 40, 1: 100, 2: 240, 255: 160}  # how each train id looks; 160 is the fill
FILL = (160 / 255,) * 3

CASES = {
    "resize": {"resize": (51, 122)},
    "rotate": {"rotate": 30},
    "translate": {"translate": 0.3},
    "shear": {"shear": 20},
    "elastic": {"elastic": 6},
    "scale": {"scale": (0.5, 2)},
    "crop": {"crop": (40, 30)},
    "crop beyond the image": {"crop": (100, 130)},
    "scale and crop": {"scale": (0.4, 2.5), "crop": (64, 64)},
    "max_class_share": {"crop": (20, 20), "max_class_share": 0.5},
    "hflip": {"hflip": 1},
    "vflip": {"vflip": 1},
    "brightness": {"brightness": 0.5},
    "contrast": {"contrast": 0.5},
    "saturation": {"saturation": 0.5},
    "hue": {"hue": 0.5},
    "blur": {"blur": 1},
    "noise": {"noise": 0.3},
    "all": {
        "resize": (70, 100),
        "rotate": 10,
        "translate": 0.1,
        "shear": 5,
        "elastic": 3,
        "scale": (0.5, 2),
        "crop": (48, 56),
        "hflip": 0.5,
        "vflip": 0.5,
    },
}
PHOTOMETRIC = ("brightness", "contrast", "saturation", "hue", "blur", "noise")
GEOMETRIC = [name for name in CASES if name not in PHOTOMETRIC]


def transform_of(channels: int = 3, labels: LabelMap = LABELS, **config):
    return build_transform(AugmentConfig(**({"hflip": 0} | config)), labels, FILL[:1] * channels)


def drawn(seed: int, height: int = 72, width: int = 90) -> torch.Tensor:
    """Return a mask ``(H, W)`` of large patches of the ids 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    for _ in range(6):
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(8, 30)
        mask[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = rng.integers(3)
    return torch.from_numpy(mask)


def picture(mask: torch.Tensor, channels: int = 3) -> tv_tensors.Image:
    """Return the image that shows a mask: one grey level per id."""
    table = torch.zeros(256, dtype=torch.uint8)
    for train_id, level in LEVELS.items():
        table[train_id] = level
    return tv_tensors.Image(table[mask.long()].expand(channels, -1, -1).contiguous())


@pytest.mark.parametrize("case", GEOMETRIC)
def test_image_and_mask_move_together(case: str) -> None:
    transform = transform_of(**CASES[case])
    compared = 0
    for seed in range(12):
        torch.manual_seed(seed)
        mask = drawn(seed)
        image, moved = transform(picture(mask), tv_tensors.Mask(mask))
        assert image.dtype == torch.uint8
        assert image.shape[-2:] == moved.shape
        expected = picture(moved.as_subclass(torch.Tensor)).int()
        # away from borders, where the image is a blend of both sides; blends add up over steps
        margin = 5 if case == "all" else 1
        around = moved.as_subclass(torch.Tensor).float().unfold(0, 2 * margin + 1, 1)
        around = around.unfold(1, 2 * margin + 1, 1).flatten(2)
        inner = around.amin(dim=2) == around.amax(dim=2)
        inside = slice(margin, -margin)
        wrong = (image.int() - expected).abs()[:, inside, inside].amax(dim=0)[inner] > 2
        assert float(wrong.float().mean()) < 0.002
        compared += int(inner.sum())
    assert compared > 3000


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(14, 60), width=st.integers(14, 60))
def test_masks_get_no_new_values(case: str, seed: int, height: int, width: int) -> None:
    torch.manual_seed(seed)
    mask = torch.randint(0, 2, (height, width), dtype=torch.uint8) * 2  # 0 and 2, never 1
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    image, moved = transform_of(**CASES[case])(tv_tensors.Image(image), tv_tensors.Mask(mask))
    assert moved.dtype == image.dtype == torch.uint8
    assert isinstance(moved, tv_tensors.Mask)
    assert isinstance(image, tv_tensors.Image)
    assert set(moved.unique().tolist()) <= {0, 2, 255}


@pytest.mark.parametrize("case", PHOTOMETRIC)
def test_values_change_and_masks_do_not(case: str) -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 32, 40), dtype=torch.uint8)
    mask = drawn(0, 32, 40)
    transform = transform_of(**CASES[case])
    changes = []
    for _ in range(10):
        changed, same = transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
        assert torch.equal(same, mask)
        changes.append(float((changed.float() - image.float()).abs().mean()))
    assert max(changes) > 5
    assert len(set(changes)) > 5


@pytest.mark.parametrize("case", CASES)
def test_draws_come_from_torch_alone(case: str) -> None:
    transform = transform_of(**CASES[case])
    mask = drawn(3)
    image = tv_tensors.Image(torch.randint(0, 256, (3, 72, 90), dtype=torch.uint8))
    results = []
    for i in range(2):
        random.seed(i)
        np.random.seed(i)  # noqa: NPY002 - the global generator must not matter
        torch.manual_seed(5)
        results.append(transform(image, tv_tensors.Mask(mask)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("case", CASES)
def test_inputs_are_left_alone(case: str) -> None:
    mask = drawn(1)
    image = picture(mask)
    before = image.clone(), mask.clone()
    transform_of(**CASES[case])(image, tv_tensors.Mask(mask))
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


@pytest.mark.parametrize("case", CASES)
def test_one_channel_and_many_classes(case: str) -> None:
    labels = LabelMap.from_names([f"c{i}" for i in range(300)])
    mask = drawn(2).int() + 297
    image = picture(drawn(2), channels=1)
    torch.manual_seed(0)
    image, moved = transform_of(1, labels, **CASES[case])(image, tv_tensors.Mask(mask))
    assert image.shape[0] == 1
    assert moved.dtype == torch.int32
    assert set(moved.unique().tolist()) <= {297, 298, 299, 65535}


def test_flips_are_exact() -> None:
    mask = drawn(0)
    for case, dim in (("hflip", -1), ("vflip", -2)):
        image, moved = transform_of(**CASES[case])(picture(mask), tv_tensors.Mask(mask))
        assert torch.equal(image, picture(mask).flip(dim))
        assert torch.equal(moved, mask.flip(dim))


def test_default_flips_half_the_time_and_does_nothing_else() -> None:
    mask = drawn(0)
    transform = build_transform(AugmentConfig(), LABELS, FILL)
    torch.manual_seed(0)
    moved = [transform(picture(mask), tv_tensors.Mask(mask))[1] for _ in range(200)]
    flipped = sum(torch.equal(m, mask.flip(-1)) for m in moved)
    assert all(torch.equal(m, mask) or torch.equal(m, mask.flip(-1)) for m in moved)
    assert 70 < flipped < 130


def test_no_settings_change_nothing() -> None:
    mask = drawn(0)
    image, moved = transform_of()(picture(mask), tv_tensors.Mask(mask))
    assert torch.equal(image, picture(mask))
    assert torch.equal(moved, mask)


def test_crop_beyond_the_image_is_filled() -> None:
    mask = torch.ones(20, 30, dtype=torch.uint8)
    places = set()
    for seed in range(20):
        torch.manual_seed(seed)
        image, moved = transform_of(crop=(50, 40))(picture(mask), tv_tensors.Mask(mask))
        assert tuple(moved.shape) == (50, 40)
        assert int((moved == 1).sum()) == 20 * 30
        assert int((moved == 255).sum()) == 50 * 40 - 20 * 30
        assert torch.equal(image, picture(moved.as_subclass(torch.Tensor)))
        places.add(tuple((moved == 1).nonzero()[0].tolist()))
    assert len({top for top, _ in places}) > 5
    assert len({left for _, left in places}) > 5


def test_crop_without_scale_copies_pixels() -> None:
    mask = torch.zeros(30, 40, dtype=torch.uint8)
    image = tv_tensors.Image(torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8))
    window, _ = transform_of(crop=(8, 9))(image, tv_tensors.Mask(mask))
    windows = image.unfold(1, 8, 1).unfold(2, 9, 1)
    assert bool((windows == window[:, None, None]).all(dim=(0, 3, 4)).any())


def test_windows_reach_every_place() -> None:
    rows, columns = torch.arange(12), torch.arange(15)
    image = torch.stack([rows[:, None].expand(12, 15), columns.expand(12, 15)]).byte()
    image = tv_tensors.Image(torch.cat([image, image[:1]]))
    transform = transform_of(crop=(10, 11))
    torch.manual_seed(0)
    mask = tv_tensors.Mask(torch.zeros(12, 15, dtype=torch.uint8))
    corners = {tuple(transform(image, mask)[0][:2, 0, 0].tolist()) for _ in range(400)}
    assert corners == {(top, left) for top in range(3) for left in range(5)}


@pytest.mark.parametrize(("factor", "width"), [(2, 20), (0.5, 5)])
def test_scale_two_shows_things_twice_as_large(factor: float, width: int) -> None:
    mask = torch.zeros(64, 64, dtype=torch.uint8)
    mask[:, 27:37] = 1
    config = {"scale": (factor, factor), "crop": (64, 64), "max_class_share": 1}
    torch.manual_seed(2)
    _, moved = transform_of(**config)(picture(mask), tv_tensors.Mask(mask))
    assert int((moved == 1).any(dim=0).sum()) == width
    config.pop("crop")
    _, moved = transform_of(**config)(picture(mask), tv_tensors.Mask(mask))
    assert tuple(moved.shape) == (64 * factor, 64 * factor)
    assert int((moved == 1).any(dim=0).sum()) == width


@pytest.mark.parametrize("size", [(30, 32), (120, 128), (270, 288)])
def test_resize_does_not_shift_the_mask_against_the_image(size: tuple[int, int]) -> None:
    grid = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij")).float()

    def center(weights: torch.Tensor) -> torch.Tensor:
        return (grid * weights).sum(dim=(1, 2)) / weights.sum()

    shifts = []
    for offset in range(30):  # a single place says nothing: labels are whole pixels
        mask = torch.zeros(90, 96, dtype=torch.uint8)
        mask[20 + offset : 53 + offset, 15 + offset : 54 + offset] = 2
        image, moved = transform_of(resize=size)(picture(mask), tv_tensors.Mask(mask))
        shifts.append(center(image[0].float() - LEVELS[0]) - center((moved == 2).float()))
    assert float(torch.stack(shifts).mean(dim=0).abs().max()) < 0.02


def test_guard_draws_again_until_classes_are_mixed() -> None:
    mask = torch.zeros(60, 60, dtype=torch.uint8)
    mask[:, 40:] = 1

    def largest_shares(limit: float) -> torch.Tensor:
        torch.manual_seed(0)
        transform = transform_of(crop=(12, 12), max_class_share=limit)
        moved = [transform(picture(mask), tv_tensors.Mask(mask))[1] for _ in range(100)]
        return torch.tensor([torch.bincount(m.flatten()).max() / m.numel() for m in moved])

    assert float((largest_shares(1.0) > 0.75).float().mean()) > 0.7
    assert float((largest_shares(0.75) > 0.75).float().mean()) < 0.45
    # one in seven windows is mixed enough; ten draws miss all with probability 0.2


def test_guard_does_not_count_ignored_pixels() -> None:
    mask = torch.full((60, 60), 255, dtype=torch.uint8)
    mask[:, ::8] = 0
    mask[:, 4::8] = 1  # a quarter counts, half and half in every window: the first is taken
    windows = []
    for limit in (0.75, 1.0):
        torch.manual_seed(0)
        transform = transform_of(crop=(16, 16), scale=(0.8, 1.2), max_class_share=limit)
        windows.append([transform(picture(mask), tv_tensors.Mask(mask))[1] for _ in range(20)])
    assert all(map(torch.equal, *windows))


def test_guard_leaves_windows_where_nothing_counts() -> None:
    mask = torch.full((60, 60), 255, dtype=torch.uint8)
    mask[20:40, 20:40:2] = 0
    mask[20:40, 21:40:2] = 1
    transform = transform_of(crop=(10, 10))
    torch.manual_seed(0)
    moved = [transform(picture(mask), tv_tensors.Mask(mask))[1] for _ in range(60)]
    assert sum(bool((m == 255).all()) for m in moved) < 6  # 0.66 without the guard


def test_guard_takes_the_last_window_when_none_is_mixed() -> None:
    mask = torch.zeros(60, 60, dtype=torch.uint8)
    _, moved = transform_of(crop=(30, 30))(picture(mask), tv_tensors.Mask(mask))
    assert tuple(moved.shape) == (30, 30)


def test_noise_has_the_stated_strength() -> None:
    image = tv_tensors.Image(torch.full((3, 64, 64), 128, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.zeros(64, 64, dtype=torch.uint8))
    transform = transform_of(noise=0.1)
    torch.manual_seed(0)
    noisy = torch.stack([transform(image, mask)[0].float() for _ in range(200)])
    stds = noisy.std(dim=(1, 2, 3))
    assert float(stds.max()) == pytest.approx(25.5, rel=0.05)
    assert float(stds.mean()) == pytest.approx(12.75, rel=0.15)
    assert float(noisy.mean()) == pytest.approx(128, abs=0.1)


@pytest.mark.parametrize("axis", [1, 2])
def test_elastic_has_the_stated_strength(axis: int) -> None:
    """A ramp as image shows how far the pixel at the middle control point was moved."""
    ramp = torch.arange(101).expand(3, 101, 101).byte()
    ramp = ramp.transpose(1, 2) if axis == 1 else ramp
    mask = tv_tensors.Mask(torch.zeros(101, 101, dtype=torch.uint8))
    transform = transform_of(elastic=5)
    torch.manual_seed(0)
    middle = [transform(tv_tensors.Image(ramp), mask)[0][0, 50, 50] for _ in range(400)]
    shifts = torch.stack(middle).float() - 50
    assert float(shifts.mean()) == pytest.approx(0, abs=0.8)
    assert float(shifts.std()) == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"flip": 1}, "Extra inputs are not permitted"),
        ({"scale": (2, 0.5)}, r"scale must be \[least, greatest\], got \[2.0, 0.5\]"),
        ({"hflip": 1.5}, "less than or equal to 1"),
        ({"crop": (0, 8)}, "greater than or equal to 1"),
        ({"hue": 0.6}, "less than or equal to 0.5"),
    ],
)
def test_wrong_settings(config: dict, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        AugmentConfig(**config)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("amounts", [(0.5, 0.5, 0.5, 0), (0.9, 0, 0.9, 0), (0.3, 0.3, 0.3, 0.2)])
def test_colours_change_as_torchvision_changes_them(channels: int, amounts: tuple) -> None:
    image = tv_tensors.Image(torch.randint(0, 256, (channels, 20, 30), dtype=torch.uint8))
    ours, theirs = ColorJitter(*amounts), v2.ColorJitter(*amounts)
    for seed in range(40):  # of 24 orders
        torch.manual_seed(seed)
        expected = theirs(image)
        torch.manual_seed(seed)
        changed = ours(image)
        assert isinstance(changed, tv_tensors.Image)
        assert torch.equal(changed, expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_images_are_resized_as_torchvision_resizes_them(channels: int) -> None:
    whole = torch.randint(0, 256, (40, 60, channels), dtype=torch.uint8).permute(2, 0, 1)
    for image in (whole, whole.contiguous(), whole[:, 3:30, 5:50]):
        for size in ((20, 31), (41, 90)):
            expected = v2.functional.resize(tv_tensors.Image(image), list(size), antialias=True)
            assert torch.equal(resize(tv_tensors.Image(image), size), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_masks_take_the_nearest_pixel_centre(dtype: torch.dtype) -> None:
    mask = tv_tensors.Mask(torch.arange(12, dtype=dtype).view(2, 6))
    assert resize(mask, (1, 3)).tolist() == [[7, 9, 11]]
    assert resize(mask, (2, 12))[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert resize(mask, (1, 3)).dtype == dtype
