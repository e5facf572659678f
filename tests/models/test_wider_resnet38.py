"""Wider ResNet-38: the authors' list of layers, its dilation and dropout, whose files it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg import create_model
from semseg.core.checks import FileError, InputError
from semseg.encoders import build_encoder
from semseg.encoders.wider_resnet38 import Unit, WiderResNet38
from tests.models import support

# kernel, stride, dilation, channels: the convolutions of the authors' drawing of the released model
# (misc/ade20k_model_a1.pdf), in order, shortcuts (1x1 with the stride) left out
DRAWN = [
    (3, 1, 1, 64),
    *[(3, 2, 1, 128), *[(3, 1, 1, 128)] * 5],
    *[(3, 2, 1, 256), *[(3, 1, 1, 256)] * 5],
    *[(3, 2, 1, 512), *[(3, 1, 1, 512)] * 11],
    *[(3, 1, 1, 512), (3, 1, 2, 1024), *[(3, 1, 2, 512), (3, 1, 2, 1024)] * 2],
    *[(1, 1, 1, 512), (3, 1, 4, 1024), (1, 1, 1, 2048)],
    *[(1, 1, 1, 1024), (3, 1, 4, 2048), (1, 1, 1, 4096)],
    *[(3, 1, 12, 512), (3, 1, 12, 19)],
]


def test_layers_are_the_authors() -> None:
    with torch.device("meta"):
        model = create_model("wider_resnet38")
    convs = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    main = [conv for name, conv in convs.items() if not name.endswith("proj_conv")]
    got = [(c.kernel_size[0], c.stride[0], c.dilation[0], c.out_channels) for c in main]
    assert got == DRAWN
    shortcuts = {n.split(".")[1]: c for n, c in convs.items() if n.endswith("proj_conv")}
    assert list(shortcuts) == [f"mod{i}" for i in range(2, 8)], "one per level, in its first unit"
    assert [c.stride[0] for c in shortcuts.values()] == [2, 2, 2, 1, 1, 1]
    assert len([name for name in convs if name.endswith("proj_conv")]) == 6
    biased = {name for name, conv in convs.items() if conv.bias is not None}
    assert biased == {"head.0", "head.2"}
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1.001e-5}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.head.modules())


def test_count_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("wider_resnet38")
        ade = create_model("wider_resnet38", num_classes=150)
    assert sum(p.numel() for p in model.encoder.parameters()) == 105_070_912
    hidden, classifier = model.head[0], model.head[2]
    assert sum(p.numel() for p in hidden.parameters()) == 9 * 4096 * 512 + 512
    assert sum(p.numel() for p in classifier.parameters()) == 9 * 512 * 19 + 19
    more = sum(p.numel() for p in ade.parameters()) - sum(p.numel() for p in model.parameters())
    assert more == (9 * 512 + 1) * (150 - 19)


def test_features_and_their_sizes() -> None:
    encoder = WiderResNet38(3, 8, width=4).eval()
    features = encoder(support.image(1, 3, 63, 90))
    assert encoder.channels == (4, 8, 16, 32, 64, 128, 256)
    assert encoder.strides == (1, 2, 4, 8, 8, 8, 8)
    assert [tuple(f.shape[-2:]) for f in features] == [(63, 90), (32, 45), (16, 23)] + [(8, 12)] * 4
    assert [f.min().item() < 0 for f in features] == [True] * 6 + [False], "the last is activated"


@pytest.mark.parametrize(
    ("stride", "strides", "dilations"),
    [
        (32, (1, 2, 4, 8, 16, 32, 32), (1, 1, 1, 1)),
        (16, (1, 2, 4, 8, 16, 16, 16), (1, 1, 2, 2)),
        (8, (1, 2, 4, 8, 8, 8, 8), (1, 2, 4, 4)),
    ],
)
def test_strides_become_dilations(
    stride: int, strides: tuple[int, ...], dilations: tuple[int, ...]
) -> None:
    encoder = WiderResNet38(3, stride, width=4)
    assert encoder.strides == strides
    seconds = [encoder.get_submodule(f"mod{i}.block1").convs.conv2 for i in range(4, 8)]
    assert tuple(conv.dilation[0] for conv in seconds) == dilations


def test_model_a2_pools_and_dilates_whole_levels() -> None:
    encoder = build_encoder("wider_resnet38_a2", output_stride=8)
    first = encoder.get_submodule("mod5.block1").convs.conv1
    assert first.dilation == (2, 2), "in A1 it keeps 1"
    assert [encoder.get_submodule(f"mod{i}.block1").convs.conv1.stride[0] for i in (2, 3, 4)] == [
        *(1, 1, 2)
    ]
    small = WiderResNet38(3, 8, width=4, pools=True, final_norm=False).eval()
    features = small(support.image(1, 3, 64, 96))
    pooled = F.max_pool2d(features[0], 3, 2, 1)
    torch.testing.assert_close(features[1], small.get_submodule("mod2")(pooled))
    assert features[-1].min() < 0, "not normalised, as GSCNN takes it"
    with torch.device("meta"):
        bare = WiderResNet38(3, 8, pools=True, final_norm=False)
    assert sum(p.numel() for p in bare.parameters()) == 105_062_720  # GSCNN's trunk


def test_a_unit_activates_first_and_its_shortcut_may_start_there() -> None:
    x = support.image(1, 8, 6, 7)
    same, wider = support.fill(Unit(8, (8, 8))), support.fill(Unit(8, (8, 16), stride=2))
    for unit in (same, wider):
        for conv in unit.convs.children():
            if isinstance(conv, nn.Conv2d):
                nn.init.zeros_(conv.weight)
    assert torch.equal(same(x), x), "nothing else on the shortcut"
    activated = F.relu(wider.bn1(x))
    torch.testing.assert_close(wider(x), wider.proj_conv(activated))


def test_dropout_stands_before_the_last_convolution_of_the_last_two_units() -> None:
    encoder = WiderResNet38(3, 8, width=4)
    drops = {name: m.p for name, m in encoder.named_modules() if isinstance(m, nn.Dropout)}
    assert drops == {"mod6.block1.convs.dropout": 0.3, "mod7.block1.convs.dropout": 0.5}
    order = [name for name, _ in encoder.get_submodule("mod7.block1").convs.named_children()]
    assert order[-3:] == ["relu3", "dropout", "conv3"]


def test_initial_weights() -> None:
    model = create_model("wider_resnet38", width=8)
    for conv in (model.head[0], model.encoder.get_submodule("mod5.block2").convs.conv1):
        expected = (2 / (9 * conv.in_channels)) ** 0.5
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.03)


def test_weights_of_ports_are_read(tmp_path: Path) -> None:
    donor, ours = WiderResNet38(3, 8, width=4).eval(), WiderResNet38(1, 8, width=4).eval()
    support.fill(donor)
    named = {f"module.{k}": v for k, v in donor.state_dict().items()}
    wrapped = {
        k.replace(".bn1.", ".bn1.0.").replace("bn_out.", "bn_out.0."): named[k] for k in named
    }
    torch.save(
        {"state_dict": wrapped | {"module.classifier.fc.weight": torch.zeros(3, 2)}},
        tmp_path / "port.pth",
    )
    ours.load_pretrained(tmp_path / "port.pth")
    grey = support.image(1, 1, 32, 32).double()
    donor, ours = donor.double(), ours.double()
    with torch.inference_mode():
        torch.testing.assert_close(
            ours(grey)[-1], donor(grey.expand(-1, 3, -1, -1))[-1], rtol=1e-4, atol=1e-6
        )


def test_refusals(tmp_path: Path) -> None:
    encoder = WiderResNet38(3, 8, width=4)
    with pytest.raises(InputError, match="no published weights that can be fetched"):
        encoder.load_pretrained()
    torch.save({"mod1.conv1.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(FileError, match=r"tensors are missing \(first: mod2\.block1\.bn1\.weight"):
        encoder.load_pretrained(tmp_path / "part.pth")
    torch.save(WiderResNet38(3, 8, width=8).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(FileError, match=r"this wider_resnet38 has \(4, 3, 3, 3\)"):
        encoder.load_pretrained(tmp_path / "wide.pth")
