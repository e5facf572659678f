"""OCRNet: soft regions, pixels that ask them, and both trunks."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.ocrnet import ObjectContext, pool_over_the_border
from tests.models import support

TINY = {"width": 4, "modules": (1, 1, 1), "blocks": 1, "num_classes": 5}
RESNET = {"encoder": "test_resnet", "num_classes": 5}


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def conv(cin: int, cout: int, area: int = 1, bias: bool = True) -> int:
    return cin * cout * area + (cout if bias else 0) + 2 * cout


def test_counts_by_hand() -> None:
    with torch.device("meta"):
        over_hrnet, over_resnet = create_model("ocrnet_hrnet_w48"), create_model("ocrnet_resnet101")
        assert count(create_model("ocrnet_hrnet_w48", num_classes=150)) == 70_534_332
    context = 2 * (conv(512, 256, bias=False) + conv(256, 256, bias=False))
    context += conv(512, 256, bias=False) + conv(256, 512, bias=False) + conv(1024, 512, bias=False)
    assert count(over_hrnet.ocr.context) == context
    assert count(over_hrnet.ocr.pixels) == conv(720, 512, 9)
    assert count(over_hrnet.ocr.aux) == conv(720, 720) + 721 * 19
    assert count(over_resnet.context) == context + 6 * 256 + 2 * 512 - 256
    assert count(over_resnet.pixels) == conv(2048, 512, 9)
    assert count(over_resnet.aux) == conv(1024, 512, 9) + 513 * 19


# ---- regions and pixels ------------------------------------------------------------------------


def test_context_by_hand() -> None:
    """Regions are softmax-weighted means, and each pixel mixes them as its key fits theirs."""
    torch.manual_seed(0)
    context = support.fill(ObjectContext(8, 4, bias=True)).double()
    x, scores = support.image(2, 8, 3, 5).double(), 3 * support.image(2, 3, 3, 5).double()
    got = context(x, scores)
    for image, maps, out in zip(x, scores, got, strict=True):
        share = maps.flatten(1).softmax(1)  # of the pixels in a region
        regions = (share @ image.flatten(1).T).T[None, ..., None]
        key, value = context.region(regions)[0, ..., 0], context.down(regions)[0, ..., 0]
        query = context.pixel(image[None])[0].flatten(1)
        attention = (query.T @ key / 4**0.5).softmax(1)
        mixed = (value @ attention.T).view(1, 4, 3, 5)
        want = context.join(torch.cat([context.up(mixed), image[None]], dim=1))
        torch.testing.assert_close(out[None], want)


def test_memory_of_the_context_grows_only_linearly() -> None:
    context = support.fill(ObjectContext(8, 4, bias=True))
    with torch.inference_mode():  # pixels to pixels would be 65,536 squared: 17 GB
        out = context(support.image(1, 8, 256, 256), support.image(1, 3, 256, 256))
    assert out.shape == (1, 8, 256, 256)


# ---- networks ----------------------------------------------------------------------------------


def test_scores_over_hrnet_stand_at_a_quarter() -> None:
    model = create_model("ocrnet_hrnet_w48", **TINY).eval()
    heads = model.forward_heads(support.image(1, 3, 67, 98))
    assert {k: tuple(v.shape) for k, v in heads.items()} == {
        "logits": (1, 5, 17, 25),
        "aux": (1, 5, 17, 25),
    }
    assert model.align_corners
    assert all(m.align_corners for m in model.encoder.modules() if hasattr(m, "align_corners"))


def test_over_resnet_there_is_one_pixel_more() -> None:
    model = support.fill(create_model("ocrnet_resnet101", **RESNET))
    heads = model.forward_heads(support.image(1, 3, 64, 96))
    assert heads["logits"].shape == heads["aux"].shape == (1, 5, 9, 13)
    pools = [m for m in model.encoder.modules() if isinstance(m, nn.MaxPool2d)]
    assert [pool.ceil_mode for pool in pools] == [True]
    pool = nn.Sequential(nn.MaxPool2d(3, 2, 1))
    assert pool(torch.zeros(1, 1, 32, 32)).shape[-1] == 16
    pool_over_the_border(pool)
    assert pool(torch.zeros(1, 1, 32, 32)).shape[-1] == 17
    assert pool(torch.zeros(1, 1, 33, 33)).shape[-1] == 17


def test_aux_makes_the_regions_and_enters_the_loss() -> None:
    model = support.fill(create_model("ocrnet_resnet101", **RESNET))
    support.without_dropout(model)
    images = support.image(2, 3, 64, 64)
    target = support.target_for(images, 5)
    heads = model.forward_heads(images)
    terms = model.loss(heads, target, support.criterion)
    assert terms.keys() == {"logits", "aux"}
    full = F.interpolate(heads["aux"], (64, 64), mode="bilinear", align_corners=True)
    torch.testing.assert_close(terms["aux"], 0.4 * support.criterion(full, target))
    nn.init.zeros_(model.aux[-1].weight)  # every region is then the mean of the image
    assert not torch.allclose(model.forward_heads(images)["logits"], heads["logits"])


def test_dropout_is_of_channels_and_small() -> None:
    rates = [
        [m.p for m in create_model(name, **settings).modules() if isinstance(m, nn.Dropout2d)]
        for name, settings in (("ocrnet_hrnet_w48", TINY), ("ocrnet_resnet101", RESNET))
    ]
    assert rates == [[0.05], [0.05, 0.05]]


def test_only_the_trunk_starts_with_small_weights() -> None:
    torch.manual_seed(0)
    model = create_model("ocrnet_hrnet_w48", **TINY)
    bound = 1 / 512**0.5  # PyTorch's default of a 1x1 over 512 channels
    assert model.ocr.classify.weight.abs().max().item() == pytest.approx(bound, rel=0.02)
    assert model.encoder.conv2.weight.std().item() == pytest.approx(0.001, rel=0.05)


def test_refusals() -> None:
    wanted = (
        "OCR cannot train on one image with one class: its norms have one region to look at, and "
        "turn that into zeros; take two images per step or more"
    )
    for name, settings in (("ocrnet_hrnet_w48", TINY), ("ocrnet_resnet101", RESNET)):
        one = create_model(name, **(settings | {"num_classes": 1})).train()
        with pytest.raises(InputError, match=re.escape(wanted)):
            one(support.image(1, 3, 64, 64))
        assert one(support.image(2, 3, 64, 64)).isfinite().all()
        assert one.eval()(support.image(1, 3, 64, 64)).isfinite().all()
        several = create_model(name, **settings).train()
        assert several(support.image(1, 3, 64, 64)).isfinite().all()
    with pytest.raises(InputError, match="OCRNetHRNet cannot train on one image of this size"):
        create_model("ocrnet_hrnet_w48", **TINY).train()(support.image(1, 3, 32, 32))
    with pytest.raises(InputError, match="'densenet121' cannot have output_stride 8; use 32, or a"):
        create_model("ocrnet_resnet101", encoder="densenet121")
