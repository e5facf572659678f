"""DPT: tokens reassembled into four maps, fused from the coarsest on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.transformer.dpt import Fusion, Reassemble, ResidualUnit
from tests.models import support

SMALL = {"trunk": "test_vit", "image_size": 64, "neck": (8, 12, 16, 16), "width": 8}


@pytest.mark.parametrize(
    ("factor", "size"), [(4.0, (24, 32)), (2.0, (12, 16)), (1.0, (6, 8)), (0.5, (3, 4))]
)
def test_maps_are_resized(factor: float, size: tuple[int, int]) -> None:
    part = Reassemble(64, 5, factor, 7)
    assert part(support.image(2, 1, 1 + 6 * 8, 64)[:, 0], (6, 8)).shape == (2, 7, *size)


def test_every_patch_reads_the_class_token() -> None:
    part = support.fill(Reassemble(8, 4, 1.0, 3))
    tokens = support.image(1, 1, 1 + 4, 8)[:, 0]
    with torch.no_grad():
        joined = torch.cat([tokens[:, 1:], tokens[:, :1].expand(1, 4, 8)], dim=-1)
        x = F.gelu(part.readout(joined)).transpose(1, 2).reshape(1, 8, 2, 2)
        torch.testing.assert_close(part(tokens, (2, 2)), part.out(part.project(x)))


def test_a_unit_activates_before_it_convolves() -> None:
    unit = support.fill(ResidualUnit(4))
    x = support.image(1, 4, 5, 6)
    with torch.no_grad():
        inner = unit.norm1(unit.conv1(x.relu()))
        want = unit.norm2(unit.conv2(inner.relu())) + x
        torch.testing.assert_close(unit(x), want)


def test_fusion_doubles_corner_on_corner() -> None:
    fusion = support.fill(Fusion(4, first=False))
    x, side = support.image(2, 4, 3, 5).chunk(2)
    with torch.no_grad():
        joined = fusion.unit(x + fusion.side(side))
        large = F.interpolate(joined, (6, 10), mode="bilinear", align_corners=True)
        torch.testing.assert_close(fusion(x, side), fusion.project(large))
    assert Fusion(4, first=True).side is None


def test_heads_and_their_strides() -> None:
    model = create_model("dpt", num_classes=5, **SMALL).eval()
    with torch.no_grad():
        heads = model.forward_heads(support.image(1, 3, 64, 96))
    shapes = {key: tuple(head.shape) for key, head in heads.items()}
    assert shapes == {"logits": (1, 5, 32, 48), "aux": (1, 5, 16, 24)}
    assert model.aux_weights == {"aux": 0.2}


def test_the_auxiliary_head_does_not_see_the_finest_map() -> None:
    model = support.fill(create_model("dpt", num_classes=5, **SMALL))
    images = support.image(1, 3, 64, 64)
    with torch.no_grad():
        before = model.forward_heads(images)
        model.reassemble[0].out.weight.zero_()
        after = model.forward_heads(images)
    assert torch.equal(before["aux"], after["aux"])
    assert not torch.equal(before["logits"], after["logits"])


def test_blocks_that_are_taken() -> None:
    with torch.device("meta"):
        large = create_model("dpt")
        base = create_model("dpt", trunk="vit_base_patch16_384", neck=(96, 192, 384, 768))
    assert large.encoder.layers == (6, 12, 18, 24)
    assert base.encoder.layers == (3, 6, 9, 12)
    assert large.encoder.norm is None, "tokens are taken from the blocks as they are"


def test_convolutions_have_biases_where_the_authors_have_them() -> None:
    model = create_model("dpt", **SMALL)
    biased = {
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and part.bias is not None
    }
    wanted = {f"reassemble.{i}.project" for i in range(4)}
    wanted |= {f"reassemble.{i}.resize" for i in (0, 1, 3)}
    wanted |= {f"fusions.{i}.project" for i in range(4)}
    assert biased == wanted | {"encoder.patch_embed", "head.4", "aux.4"}


def test_refusals() -> None:
    wrong = r"DPT needs four positive numbers as neck and width >= 1, got \(8, 8\) and 256"
    with pytest.raises(InputError, match=wrong):
        create_model("dpt", neck=(8, 8))
    with pytest.raises(InputError, match=r"as neck and width >= 1, got .* and 0"):
        create_model("dpt", width=0)
