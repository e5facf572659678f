"""Receptive fields, against gradients of real layers and against arithmetic by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg.models import create_model
from semseg.models.base import MODELS, build
from semseg.models.receptive_field import ReceptiveField
from semseg.models.summary import in_words, receptive_field, summarize


def reached(layer: nn.Module, side: int) -> tuple[int, int] | None:
    """Return the widest field of all places that touch no border, from gradients."""
    images = torch.rand(1, 4, side, side, dtype=torch.float64).add(1).requires_grad_()
    out = layer(images)
    widest = [0, 0]
    for y in range(out.shape[-2]):
        x = min(y, out.shape[-1] - 1)
        (gradient,) = torch.autograd.grad(out[0, :, y, x].sum(), images, retain_graph=True)
        seen = gradient[0].abs().sum(0) > 0
        places = [seen.any(1 - dim).nonzero().flatten().tolist() for dim in (0, 1)]
        if not all(places):
            continue  # a dilated transposed convolution leaves gaps
        if min(p[0] for p in places) == 0 or max(p[-1] for p in places) == side - 1:
            continue
        widest = [max(w, p[-1] - p[0] + 1) for w, p in zip(widest, places, strict=True)]
    return (widest[0], widest[1]) if all(widest) else None


def computed(layer: nn.Module, side: int) -> tuple[int, int] | None:
    images = torch.rand(1, 4, side, side, dtype=torch.float64)
    with ReceptiveField(images) as field:
        out = layer(images)
    return field.of(out)


def positive(layer: nn.Module) -> nn.Module:
    """Make every weight positive, so that no path cancels another."""
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    return layer.double().eval()


class Resize(nn.Module):
    def __init__(self, size: tuple[int, int], **how: object) -> None:
        super().__init__()
        self.size, self.how = size, how

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, **self.how)


class Sum(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return sum(branch(x) for branch in self.branches)


class Function(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def conv(kernel: object, **settings: object) -> nn.Conv2d:
    return nn.Conv2d(4, 4, kernel, **settings)


LAYERS = {
    "dilated": conv(3, dilation=(2, 3), padding=2),
    "thin": nn.Sequential(conv((7, 1)), conv((1, 3))),
    "strided": nn.Sequential(conv(3, stride=2), conv(5, stride=3, padding=1), conv(3)),
    "transposed": nn.Sequential(conv(3, stride=4), nn.ConvTranspose2d(4, 4, 4, 2, 1), conv(3)),
    "dilated transposed": nn.Sequential(
        conv(2, stride=2), nn.ConvTranspose2d(4, 4, 3, 2, dilation=3)
    ),
    "average": nn.Sequential(nn.AvgPool2d(3, 2, 1), conv(3)),
    "nearest": nn.Sequential(conv(3, stride=3), Resize((30, 30)), conv(3)),
    "bilinear": nn.Sequential(
        conv(3, stride=3), Resize((31, 27), mode="bilinear"), conv(3, padding=1)
    ),
    "aligned": nn.Sequential(
        conv(3, stride=3), Resize((33, 28), mode="bilinear", align_corners=True), conv(3)
    ),
    "smaller": nn.Sequential(Resize((20, 13), mode="bilinear"), conv(3)),
    "reflected": nn.Sequential(nn.ReflectionPad2d(3), conv(5)),
    "sliced": nn.Sequential(conv(3), Function(lambda x: x[..., 4:-3, 2::2]), conv(3)),
    "unshuffled": nn.Sequential(
        conv(2), nn.PixelUnshuffle(2), nn.Conv2d(16, 16, 3), nn.PixelShuffle(2)
    ),
    "branches": Sum(
        conv(3, padding=1), nn.Sequential(conv(5, padding=2), nn.BatchNorm2d(4), nn.PReLU())
    ),
    "channel softmax": nn.Sequential(conv(3), nn.Softmax(1), conv(3)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_equals_what_gradients_reach(kind: str) -> None:
    torch.manual_seed(0)
    layer = positive(LAYERS[kind])
    assert computed(layer, 39) == reached(layer, 39) is not None


@pytest.mark.parametrize(
    "everything",
    [
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d(3),
        Function(lambda x: x.mean((2, 3), keepdim=True) * x),
        Function(lambda x: (x.flatten(2).transpose(1, 2) @ x.flatten(2)).softmax(-1)),
        Function(lambda x: F.scaled_dot_product_attention(x, x, x)),
    ],
)
def test_what_sees_everything(everything: nn.Module) -> None:
    images = torch.empty(1, 4, 64, 64, device="meta")
    with ReceptiveField(images) as field:
        out = everything(images)
    assert field.is_whole(out)
    assert field.of(out) is None


@pytest.mark.parametrize(
    ("name", "side"),
    [
        # VGG16 to pool5 212, fc6 of 7x7 at stride 32 adds 6 * 32
        ("fcn_32s_vgg16", 404),
        # each 3x3 adds 2 strides, each pool 1: 1, 2, 4, 8 going down, back up 2x2 deconvolutions
        ("unet", 204),
        ("unet_valid", 204),
        # conv4_3 92, three 3x3 of dilation 2 at stride 8 add 96, fc6 of 7x7 and dilation 4 adds 192
        ("dilation_frontend", 92 + 96 + 192),
    ],
)
def test_by_hand(name: str, side: int) -> None:
    with torch.device("meta"):
        model = build(MODELS[name], {}).eval()
    assert receptive_field(model) == (side, side)


def test_equals_gradients_of_a_network() -> None:
    torch.manual_seed(0)
    model = positive(create_model("unet", in_channels=4, width=2))
    assert computed(model, 256) == (204, 204)
    images = torch.rand(1, 4, 256, 256, dtype=torch.float64).add(1).requires_grad_()
    seen = []
    for place in range(118, 135):  # all places within the coarsest cell
        (gradient,) = torch.autograd.grad(model(images)[0, :, place, place].sum(), images)
        rows = gradient[0].abs().sum((0, 2)).nonzero()
        seen.append(int(rows[-1] - rows[0]) + 1)
    assert max(seen) == 204


def test_a_network_that_pools_everything_sees_the_whole_image() -> None:
    assert summarize("deconvnet").receptive_field is None
    assert in_words(None) == "the whole image"
    assert in_words((3, 5)) == "3 x 5 pixels"


def test_the_stride_does_not_follow_from_what_the_border_loses() -> None:
    assert summarize("fcn_8s_vgg16").output_stride == 8
    assert summarize("fcn_32s_vgg16").output_stride == 32


def test_regions_of_many_sizes_side_by_side_see_everything() -> None:
    images = torch.empty(1, 3, 24, 24, device="meta")
    with ReceptiveField(images) as field:
        pooled = [F.adaptive_avg_pool2d(images, side).flatten(2) for side in (1, 3, 6)]
        joined = torch.cat(pooled, dim=2)
    assert joined.shape == (1, 3, 46)
    assert field.of(joined) is None
