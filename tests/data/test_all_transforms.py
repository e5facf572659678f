"""Every setting and every transform has a case, and in each image and mask stay together."""

from __future__ import annotations

import pytest
import torch
from torchvision import tv_tensors

from semseg.data.transforms import AugmentConfig, build_mix, build_transform
from semseg.data.transforms.joint import Joint
from tests.data.test_transforms import CASES, FILL, LABELS, drawn, picture, transform_of


def asked_by(build) -> set[str]:
    """Return the settings that a function looks at."""
    asked: set[str] = set()

    class Listening:
        def __getattr__(self, name: str) -> object:
            asked.add(name)
            return getattr(AugmentConfig(), name)

    build(Listening(), LABELS, *([FILL] if build is build_transform else []))
    return asked


def test_every_setting_has_a_case() -> None:
    cases = {key for case in CASES.values() for key in case}
    clouds = {"points"}
    # those of mixing have their cases in test_mix.py
    assert cases == set(AugmentConfig.model_fields) - asked_by(build_mix) - clouds
    assert asked_by(build_transform) - clouds <= cases


def test_every_transform_has_a_case() -> None:
    known, new = set(), {Joint}
    while new:
        known |= new
        new = {below for one in new for below in one.__subclasses__()} - known
    ours = {one for one in known - {Joint} if one.__module__.startswith("semseg.")}
    built = [transform_of(**case) for case in CASES.values()]
    assert ours == {type(step) for t in built for step in t.transforms} & known
    assert len(ours) >= 6


@pytest.mark.parametrize("case", CASES)
def test_an_image_lies_where_its_mask_lies(case: str) -> None:
    """Whatever is done to values, image and mask are most alike where neither is shifted."""
    transform = transform_of(**CASES[case])
    likeness = torch.zeros(5, 5)
    for seed in range(8):
        torch.manual_seed(seed)
        mask = drawn(seed)
        image, moved = transform(picture(mask), tv_tensors.Mask(mask))
        shown = picture(moved.as_subclass(torch.Tensor))[0].float()
        values = image.float().mean(dim=0)
        inside = shown[2:-2, 2:-2]
        height, width = inside.shape
        for y in range(5):
            for x in range(5):
                pair = torch.stack([values[y : y + height, x : x + width], inside]).flatten(1)
                if float(pair.std(dim=1).min()) > 0:
                    likeness[y, x] += torch.corrcoef(pair)[0, 1]
    assert int(likeness.argmax()) == 12  # the middle
    assert float(likeness.max()) > 5
