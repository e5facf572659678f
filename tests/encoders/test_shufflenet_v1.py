"""ShuffleNet v1 and MobileNet v1 as RTSeg has them: counts, shapes, the shuffle, first values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from semseg.core.checks import FileError, InputError
from semseg.encoders import build_encoder
from semseg.encoders.mobilenet_v1 import MobileNetV1
from semseg.encoders.shufflenet_v1 import ShuffleNetV1, Unit, shuffle, xavier_
from semseg.encoders.timm import TimmEncoder
from tests.models import support


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def unit_count(cin: int, cout: int, *, grouped: bool = True) -> int:
    """Parameters of a unit by hand: three convolutions with bias, three norms."""
    new = cout - cin if cin != cout else cout
    inner = new // 4
    first = cin * inner // (3 if grouped else 1) + inner
    return first + (9 * inner + inner) + (inner * new // 3 + new) + 2 * (2 * inner + new)


# ---- ShuffleNet --------------------------------------------------------------------------------


def test_count_by_hand() -> None:
    with torch.device("meta"):
        encoder = build_encoder("shufflenet_v1_g3")
    want = 27 * 24 + 24 + 48 + unit_count(24, 240, grouped=False) + 3 * unit_count(240, 240)
    want += unit_count(240, 480) + 7 * unit_count(480, 480)
    want += unit_count(480, 960) + 3 * unit_count(960, 960)
    assert count(encoder) == want == 865_602
    biases = sum(m.out_channels for m in encoder.modules() if isinstance(m, nn.Conv2d))
    assert want - biases == 853_734


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [(32, (8, 16, 32), (1, 1, 1)), (16, (8, 16, 16), (1, 1, 2)), (8, (8, 8, 8), (1, 2, 4))],
)
def test_shapes_and_dilations(
    output_stride: int, strides: tuple[int, ...], dilations: tuple[int, ...]
) -> None:
    encoder = ShuffleNetV1(3, 12, output_stride).eval()
    assert encoder.channels == (12, 12, 120, 240, 480)
    assert encoder.strides == (2, 4, *strides)
    stem, pooled, *features = encoder(support.image(1, 3, 64, 96))
    assert stem.shape == (1, 12, 31, 47), "no padding: (64 - 3) // 2 + 1"
    assert pooled.shape == (1, 12, 15, 23)
    for feature, channels, s in zip(features, (120, 240, 480), strides, strict=True):
        assert feature.shape == (1, channels, 64 // s, 96 // s)
    for stage, rate in zip(encoder.stages, dilations, strict=True):
        got = [unit.depthwise.dilation[0] for unit in stage]
        assert got == [rate] + [1] * (len(stage) - 1), "the first unit alone"


def test_bottlenecks_are_a_quarter_of_what_a_unit_adds() -> None:
    encoder = ShuffleNetV1()
    got = [[unit.bottleneck.out_channels for unit in stage][:2] for stage in encoder.stages]
    assert got == [[54, 60], [60, 120], [120, 240]]
    assert [len(stage) for stage in encoder.stages] == [4, 8, 4]
    groups = [unit.bottleneck.groups for stage in encoder.stages for unit in stage]
    assert groups == [1] + [3] * 15, "24 channels are too few for groups"


def test_shuffle_by_hand() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffle(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_a_first_unit_puts_averages_beside_its_branch() -> None:
    unit = Unit(12, 24, stride=2).eval()
    nn.init.zeros_(unit.expand_norm.weight)
    x = torch.arange(12.0 * 16).view(1, 12, 4, 4)
    out = unit(x)
    assert out.shape == (1, 24, 2, 2)
    assert not out[:, 12:].any()
    # from pixel 0 on; at the end two rows and columns are left
    want = [x[0, 0, :3, :3], x[0, 0, :3, 2:], x[0, 0, 2:, :3], x[0, 0, 2:, 2:]]
    assert out[0, 0].flatten().tolist() == pytest.approx([part.mean().item() for part in want])
    odd = Unit(12, 24, stride=2, odd=True).eval()
    nn.init.zeros_(odd.expand_norm.weight)
    x = torch.arange(12.0 * 9).view(1, 12, 3, 3)
    want = [x[0, 0, :2, :2], x[0, 0, :2, 1:], x[0, 0, 1:, :2], x[0, 0, 1:, 1:]]
    got = odd(x)[0, 0].flatten().tolist()
    assert got == pytest.approx([part.mean().item() for part in want])


def test_a_later_unit_adds_its_input() -> None:
    unit = Unit(12, 12).eval()
    nn.init.zeros_(unit.expand_norm.weight)
    x = support.image(1, 12, 5, 6)
    torch.testing.assert_close(unit(x), x.relu())


def test_constants_of_the_norms() -> None:
    first, second = ShuffleNetV1(3, 12).stages[0][:2]
    assert [m.eps for m in first.modules() if isinstance(m, nn.BatchNorm2d)] == [1e-3, 1e-3, 1e-5]
    assert [m.eps for m in second.modules() if isinstance(m, nn.BatchNorm2d)] == [1e-5, 1e-3, 1e-5]
    norms = [m for m in ShuffleNetV1().modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.momentum for m in norms} == {0.01}


@pytest.mark.parametrize(
    ("conv", "ends"),
    [
        (nn.Conv2d(40, 80, 1), 40 + 80),
        (nn.Conv2d(48, 96, 3), 9 * (48 + 96)),
        (nn.Conv2d(240, 60, 1, groups=3), 80 + 20),
        (nn.Conv2d(120, 120, 3, groups=120), 9 * (120 + 1)),
    ],
)
def test_first_weights_are_tensorflows_xavier(conv: nn.Conv2d, ends: int) -> None:
    xavier_(conv)
    bound = math.sqrt(6 / ends)
    assert 0.97 * bound < conv.weight.abs().max().item() <= bound
    assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.08)
    assert not conv.bias.any()


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "shufflenet.pth"
    donor = support.fill(ShuffleNetV1(3, 12))
    torch.save(donor.state_dict(), path)
    grey, ours = ShuffleNetV1(1, 12).eval(), ShuffleNetV1(3, 12).eval()
    ours.load_pretrained(path)
    grey.load_pretrained(path)
    images = support.image(1, 3, 64, 64)
    assert torch.equal(ours(images)[-1], donor(images)[-1])
    torch.testing.assert_close(grey.conv1.weight, donor.conv1.weight.sum(1, keepdim=True))
    with pytest.raises(FileError, match=r"conv1\.weight has shape \(12, 3, 3, 3\), this trunk has"):
        ShuffleNetV1().load_pretrained(path)
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(FileError, match=r"does not hold ShuffleNet v1: \d+ of \d+ tensors are mis"):
        ours.load_pretrained(path)


def test_refusals() -> None:
    with pytest.raises(InputError, match="ShuffleNet v1 takes a width of 12, 24, 36, …, got 16"):
        ShuffleNetV1(3, 16)
    with pytest.raises(InputError, match="no published weights that can be fetched; give a file"):
        ShuffleNetV1(3, 12).load_pretrained()
    with pytest.raises(InputError, match="'mobilenet_v1' cannot have output_stride 8; use 32"):
        build_encoder("mobilenet_v1", output_stride=8)


# ---- MobileNet ---------------------------------------------------------------------------------


def test_mobilenet_is_the_papers_and_biases() -> None:
    with torch.device("meta"):
        encoder = build_encoder("mobilenet_v1")
    # the paper's network less its classifier, and a bias for each output of its 27 convolutions
    assert count(encoder) == 4_231_976 - 1_025_000 + 10_944 == 3_217_920
    channels = [32, 64, *[128] * 2, *[256] * 2, *[512] * 6, *[1024] * 2]
    assert encoder.channels == tuple(channels)
    assert encoder.strides == (2, 2, 4, 4, 8, 8, *[16] * 6, 32, 32)
    small = MobileNetV1(3, 4).eval()
    features = small(support.image(1, 3, 64, 96))
    for feature, c, s in zip(features, small.channels, small.strides, strict=True):
        assert feature.shape == (1, c, 64 // s, 96 // s)
        assert feature.max() <= 6, "ReLU6"


def test_mobilenet_halves_from_pixel_0_on() -> None:
    encoder = MobileNetV1(1, 1, depth=1).eval()
    conv = encoder.layers[0][1]
    nn.init.ones_(conv.weight)
    image = torch.zeros(1, 1, 4, 4)
    image[..., 0, 0] = 1.0
    (out,) = encoder(image)
    assert (out > 0).sum() == 1, "pixel 0 belongs to the first output alone"
    image = torch.zeros(1, 1, 4, 4)
    image[..., 2, 2] = 1.0
    (out,) = encoder(image)
    assert (out > 0).sum() == 4, "pixel 2 belongs to all four"


def test_mobilenet_takes_timms_weights(tmp_path: Path) -> None:
    donor = TimmEncoder("mobilenetv1_100")
    support.fill(donor)
    path = tmp_path / "mobilenet.pth"
    torch.save(donor.trunk.state_dict(), path)
    ours = MobileNetV1().eval()
    ours.load_pretrained(path)
    for module in [*ours.modules()]:  # with timm's padding, the features are timm's
        if isinstance(module, nn.ZeroPad2d):
            module.padding = (1, 1, 1, 1)
    images = support.image(1, 3, 64, 64)
    with torch.inference_mode():
        got, want = ours(images), donor(images)
    for i, feature in zip((1, 3, 5, 11, 13), want, strict=True):
        torch.testing.assert_close(got[i], feature, rtol=1e-4, atol=1e-4)
    short = MobileNetV1(depth=6)
    short.load_pretrained(path)
    assert torch.equal(short.layers[5][0].weight, ours.layers[5][0].weight)
    with pytest.raises(InputError, match="weights have width 32, this trunk has 4; create it with"):
        MobileNetV1(3, 4).load_pretrained(path)
