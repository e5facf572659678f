"""Parts of one sample in another: image and mask always together."""

from __future__ import annotations

import pytest
import torch
from torchvision import tv_tensors

from semseg.core.checks import InputError, UnknownNameError
from semseg.core.labels import LabelMap
from semseg.core.preprocess import IMAGENET
from semseg.data import build_dataset
from semseg.data.loader import make_loader
from semseg.data.transforms import AugmentConfig, build_mix, build_transform
from semseg.data.transforms.mix import (
    HalfOfTheClasses,
    Pair,
    Region,
    ThingsOf,
    paste,
    rectangle,
)
from tests.data.test_all_transforms import asked_by

LABELS = LabelMap.from_names(["a", "b", "c", "d"], ignore={255: "void"})


def own_mask(values: torch.Tensor) -> Pair:
    """A sample whose image is its mask."""
    image = values.expand(3, -1, -1).clone()
    return tv_tensors.Image(image), tv_tensors.Mask(values)


def blocks(*ids: int) -> torch.Tensor:
    """Columns of four pixels for each id."""
    return torch.tensor(ids, dtype=torch.uint8).repeat_interleave(4).expand(8, -1).clone()


REST = {"copy_paste": {"copy_paste_classes": ("b", "d")}}
"""What a way of mixing needs beside its probability."""


def regions() -> dict[str, Region]:
    """Return the region of every way of mixing that can be asked for."""
    found = {}
    for name in asked_by(build_mix) - {key for rest in REST.values() for key in rest}:
        mix = build_mix(AugmentConfig(**{name: 1}, **REST.get(name, {})), LABELS)
        ((found[name], probability),) = mix.ways
        assert probability == 1
    return dict(sorted(found.items()))


def test_regions() -> None:
    known = {"classmix": HalfOfTheClasses(255), "copy_paste": ThingsOf((1, 3)), "cutmix": rectangle}
    assert regions() == known


@pytest.mark.parametrize("region", regions().values(), ids=regions())
def test_image_and_mask_take_the_same_pixels(region) -> None:
    torch.manual_seed(0)
    onto, other = own_mask(blocks(0, 2, 255)), own_mask(blocks(1, 255, 3))
    for _ in range(20):
        image, mask = paste(region, onto, other)
        assert type(image) is tv_tensors.Image
        assert type(mask) is tv_tensors.Mask
        for channel in image:
            assert channel.equal(mask.as_subclass(torch.Tensor))
        assert set(mask.unique().tolist()) <= {0, 1, 2, 3, 255}
    assert onto[1].equal(blocks(0, 2, 255)), "the sample itself is left alone"


def test_cutmix_takes_a_window_of_any_share() -> None:
    torch.manual_seed(0)
    shares = []
    for _ in range(300):
        taken = rectangle(torch.zeros(40, 60))
        rows, columns = taken.any(1), taken.any(0)
        assert int(taken.sum()) == int(rows.sum()) * int(columns.sum()), "one rectangle"
        shares.append(taken.float().mean().item())
    assert min(shares) < 0.05
    assert max(shares) > 0.5
    assert 0.3 < sum(shares) / 300 < 0.5, "half, less what reaches beyond the image"


def test_classmix_takes_half_of_the_classes_whole() -> None:
    torch.manual_seed(0)
    mask = blocks(0, 1, 2, 255)
    seen = set()
    for _ in range(40):
        taken = HalfOfTheClasses(255)(mask)
        held = frozenset(mask[taken].unique().tolist())
        assert len(held) == 2
        assert 255 not in held
        assert taken.equal(torch.isin(mask, torch.tensor(sorted(held), dtype=torch.uint8)))
        seen.add(held)
    assert len(seen) == 3


def test_copy_paste_takes_the_named_classes() -> None:
    config = AugmentConfig(copy_paste=1, copy_paste_classes=["b", "d"])
    mix = build_mix(config, LABELS)
    assert mix is not None
    region = mix.draw()
    assert region is not None
    assert region(blocks(0, 1, 3, 2))[0].tolist() == [False] * 4 + [True] * 8 + [False] * 4
    assert not region(blocks(0, 2)).any()


def test_each_way_as_often_as_asked() -> None:
    torch.manual_seed(0)
    assert build_mix(AugmentConfig(), LABELS) is None
    mix = build_mix(AugmentConfig(cutmix=0.5, classmix=0.25), LABELS)
    assert mix is not None
    drawn = [mix.draw() for _ in range(2000)]
    assert drawn.count(rectangle) / 2000 == pytest.approx(0.5, abs=0.05)
    assert drawn.count(None) / 2000 == pytest.approx(0.25, abs=0.05)


def test_a_batch_is_the_same_whatever_reads_it() -> None:
    dataset = build_dataset("synthetic", "train", length=6, size=(48, 64))
    config = AugmentConfig(crop=(32, 32), classmix=0.5, cutmix=0.5)

    def batches(config: AugmentConfig, workers: int, batch_size: int) -> torch.Tensor:
        loader = make_loader(
            dataset,
            transform=build_transform(config, dataset.labels, IMAGENET.mean),
            preprocessing=IMAGENET,
            batch_size=batch_size,
            seed=3,
            shuffle=True,
            workers=workers,
            drop_last=False,
            mix=build_mix(config, dataset.labels),
        )
        return torch.cat([batch.images for batch in loader])

    mixed = batches(config, 0, 6)
    assert mixed.equal(batches(config, 2, 3))
    plain = batches(AugmentConfig(crop=(32, 32)), 0, 6)
    assert not mixed.equal(plain)
    same = (mixed == plain).all(1).float().mean((1, 2))
    assert ((same > 0) & (same < 1)).any(), "what is not pasted is the sample without mixing"


def test_refusals() -> None:
    with pytest.raises(InputError, match="mixing needs samples of one size, got"):
        paste(rectangle, own_mask(blocks(0)), own_mask(blocks(0, 1)))
    with pytest.raises(UnknownNameError, match=r"class in augment\.copy_paste_classes"):
        build_mix(AugmentConfig(copy_paste=1, copy_paste_classes=["e"]), LABELS)
    with pytest.raises(ValueError, match="add up to more than 1"):
        AugmentConfig(cutmix=0.6, classmix=0.6)
    with pytest.raises(ValueError, match="copy_paste and copy_paste_classes need each other"):
        AugmentConfig(copy_paste=0.5)
