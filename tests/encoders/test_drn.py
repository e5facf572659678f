"""Trunks of DRN: levels, dilations, shortcuts, published weights."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import hub, nn

from semseg.core.checks import FileError, InputError
from semseg.encoders import build_encoder
from semseg.encoders.drn import DRN, VARIANTS, BasicBlock, Bottleneck
from semseg.models import create_model
from tests.models import support


def convs(level: nn.Module) -> list[nn.Conv2d]:
    """Return the 3x3 convolutions of a level."""
    return [m for m in level.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]


@pytest.mark.parametrize(
    ("name", "count"),
    # the authors' ImageNet networks, less a classifier of 512 or 2048 x 1000 + 1000
    [
        ("drn_a_50", 25_557_032 - 2_049_000),
        ("drn_c_26", 21_126_584 - 513_000),
        ("drn_c_42", 31_234_744 - 513_000),
        ("drn_d_22", 16_393_752 - 513_000),
        ("drn_d_38", 26_501_912 - 513_000),
        ("drn_d_54", 35_809_176 - 513_000),
        ("drn_d_105", 54_801_304 - 513_000),
    ],
)
def test_parameters_are_the_authors(name: str, count: int) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name, output_stride=8)
    assert sum(p.numel() for p in encoder.parameters()) == count


@pytest.mark.parametrize("size", [(64, 96), (61, 91)])
@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("drn_a_50", (4, 16, 32, 64, 128), (2, 4, 8, 8, 8)),
        ("drn_c_26", (4, 8, 16, 32, 64, 128, 128, 128), (1, 2, 4, 8, 8, 8, 8, 8)),
        ("drn_d_54", (4, 8, 64, 128, 256, 512, 128, 128), (1, 2, 4, 8, 8, 8, 8, 8)),
    ],
)
def test_features(
    name: str, channels: tuple[int, ...], strides: tuple[int, ...], size: tuple[int, int]
) -> None:
    encoder = DRN(3, name, width=4).eval()
    assert (encoder.channels, encoder.strides) == (channels, strides)
    for feature, c, s in zip(encoder(support.image(1, 3, *size)), channels, strides, strict=True):
        assert feature.shape == (1, c, math.ceil(size[0] / s), math.ceil(size[1] / s))
        assert (feature >= 0).all(), "every level ends in a ReLU"


def test_dilation_rises_to_four_and_falls_to_one() -> None:
    for name in ("drn_c_42", "drn_d_38", "drn_d_54"):
        encoder = DRN(3, name, width=1)
        got = [
            {c.dilation[0] for c in convs(encoder.get_submodule(f"layer{i}"))} for i in range(1, 9)
        ]
        assert got == [{1}, {1}, {1}, {1}, {2}, {4}, {2}, {1}], "of every block, the first too"
        assert [len(encoder.get_submodule(f"layer{i}")) for i in (3, 4, 5, 6)] == [3, 4, 6, 3]


def test_a_leaves_the_first_block_of_a_level_undilated() -> None:
    encoder = DRN(3, "drn_a_50", width=1)
    got = [[c.dilation[0] for c in convs(encoder.get_submodule(f"layer{i}"))] for i in range(1, 5)]
    assert got == [[1] * 3, [1] * 4, [1] + [2] * 5, [1] + [4] * 2]


def test_outer_levels_are_blocks_in_c_and_plain_in_d() -> None:
    c, d = DRN(3, "drn_c_26", width=1), DRN(3, "drn_d_54", width=1)
    for i in (1, 2, 7, 8):
        (block,) = c.get_submodule(f"layer{i}")
        assert isinstance(block, BasicBlock)
        assert (block.downsample is None) == (i > 2), "only the last two have no shortcut"
        assert [type(m) for m in d.get_submodule(f"layer{i}")] == [
            nn.Conv2d,
            nn.BatchNorm2d,
            nn.ReLU,
        ]
    assert all(
        isinstance(b, Bottleneck) for i in (3, 4, 5, 6) for b in d.get_submodule(f"layer{i}")
    )
    assert d.get_submodule("layer3.0.conv2").stride == (2, 2), "the 3x3 strides"


def test_without_shortcut_a_silent_branch_is_silence() -> None:
    x = support.image(1, 3, 5, 6)
    for residual, want in ((True, x.relu()), (False, torch.zeros_like(x))):
        block = BasicBlock(3, 3, 1, 2, residual).eval()
        nn.init.zeros_(block.conv2.weight)
        torch.testing.assert_close(block(x), want)


def test_weights_start_by_outgoing_nodes() -> None:
    torch.manual_seed(0)
    encoder = DRN(3, "drn_c_26", width=16)
    for name in ("layer3.0.conv1", "layer6.0.downsample.0", "layer8.0.conv2"):
        conv = encoder.get_submodule(name)
        outgoing = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / outgoing), rel=0.03)


@pytest.mark.parametrize("name", ["drn_a_50", "drn_c_26", "drn_d_54"])
def test_published_files_fit(name: str, tmp_path: Path) -> None:
    donor, ours = support.fill(DRN(3, name, width=2)), DRN(3, name, width=2).eval()
    old = {k: v for k, v in donor.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(old | {"fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}, tmp_path / "w")
    ours.load_pretrained(tmp_path / "w")
    images = support.image(1, 3, 32, 40)
    assert torch.equal(ours(images)[-1], donor(images)[-1])
    grey = DRN(1, name, width=2)
    grey.load_pretrained(tmp_path / "w")
    first = next(iter(donor.parameters()))
    torch.testing.assert_close(next(iter(grey.parameters())), first.sum(1, keepdim=True))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(DRN(3, "drn_d_38", width=2).state_dict(), path)
    with pytest.raises(
        FileError, match=r"other\.pth holds another network than drn_d_22: 0 .* 96 too many"
    ):
        DRN(3, "drn_d_22", width=2).load_pretrained(path)
    with pytest.raises(
        FileError, match=r"than drn_c_42: 50 tensors missing, 30 .*\(first: conv1\.weig"
    ):
        DRN(3, "drn_c_42", width=2).load_pretrained(path)
    with pytest.raises(
        FileError, match=r"layer0\.0\.weight has shape \(2, 3, 7, 7\), this drn_d_38 "
    ):
        DRN(3, "drn_d_38", width=4).load_pretrained(path)


@pytest.mark.parametrize("name", VARIANTS)
def test_true_fetches_the_authors_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    donor, asked = support.fill(DRN(3, name, width=2)).state_dict(), []

    def fetch(url: str, **settings: object) -> dict[str, torch.Tensor]:
        asked.append((url, settings["check_hash"], settings["weights_only"]))
        return dict(donor)

    monkeypatch.setattr(hub, "load_state_dict_from_url", fetch)
    ours = DRN(3, name, width=2)
    ours.load_pretrained()
    assert all(torch.equal(v, donor[k]) for k, v in ours.state_dict().items() if v.dim() > 0)
    ((url, *safe),) = asked
    file = "resnet50-19c8e357.pth" if name == "drn_a_50" else f"/drn/{name}-"
    assert file in url
    assert safe == [True, True]


@pytest.mark.parametrize("error", [URLError("no route"), pickle.UnpicklingError("no route")])
def test_a_failed_download_says_so(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(hub, "load_state_dict_from_url", fail)
    with pytest.raises(
        FileError, match=r"weights of drn_d_22 cannot be had from http://dl\.yf\.io"
    ):
        DRN(3, "drn_d_22", width=2).load_pretrained()


def test_other_decoders_take_it_at_stride_8() -> None:
    with torch.device("meta"):
        model = create_model("deeplab_v3_plus", encoder="drn_d_54", output_stride=8).eval()
        assert model(torch.empty(1, 3, 64, 96)).shape == (1, 21, 64, 96)
        fcn = create_model("fcn_resnet50", encoder="drn_c_26").eval()
        assert fcn.forward_heads(torch.empty(1, 3, 64, 96))["logits"].shape == (1, 21, 8, 12)
    with pytest.raises(
        InputError, match="'drn_d_54' cannot have output_stride 32; it is made for 8"
    ):
        build_encoder("drn_d_54")
