"""STDC: its widths, its blocks, the authors' weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from semseg.core.checks import FileError, InputError
from semseg.encoders import build_encoder
from semseg.encoders.stdc import STDC, ShortTermConcat
from tests.models import support


@pytest.mark.parametrize(
    ("name", "blocks", "count"),
    [("stdc1", (2, 2, 2), 5_318_304), ("stdc2", (4, 5, 3), 9_348_768)],
)
def test_depths_and_count(name: str, blocks: tuple[int, ...], count: int) -> None:
    with torch.device("meta"):
        encoder = build_encoder(name)
    assert len(encoder.features) == 2 + sum(blocks)
    assert sum(p.numel() for p in encoder.parameters()) == count
    assert encoder.channels == (32, 64, 256, 512, 1024)
    halving = [i for i, block in enumerate(encoder.features) if hasattr(block, "avd_layer")]
    assert halving == [2, 2 + blocks[0], 2 + blocks[0] + blocks[1]]


def test_features_are_rounded_up() -> None:
    encoder = STDC(3, (2, 1, 1), width=8).eval()
    sizes = [tuple(f.shape[1:]) for f in encoder(support.image(1, 3, 65, 97))]
    assert sizes == [(4, 33, 49), (8, 17, 25), (32, 9, 13), (64, 5, 7), (128, 3, 4)]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_shows_every_step(stride: int) -> None:
    block = support.fill(ShortTermConcat(8, 32, stride))
    x = support.image(1, 8, 6, 10)
    with torch.no_grad():
        steps = [block.conv_list[0](x)]
        below = block.avd_layer(steps[0]) if stride == 2 else steps[0]
        for conv in block.conv_list[1:]:
            below = conv(below)
            steps.append(below)
        if stride == 2:  # what leaves the block is averaged, what goes on is not
            steps[0] = F.avg_pool2d(steps[0], 3, 2, 1)
        assert [s.shape[1] for s in steps] == [16, 8, 4, 4]
        assert torch.equal(block(x), torch.cat(steps, 1))


def test_initial_weights_keep_the_backward_signal() -> None:
    conv = STDC(3).features[-1].conv_list[0].conv
    assert conv.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)


def test_the_authors_file_is_loaded_and_adapted(tmp_path: Path) -> None:
    theirs = {k: v.clone() for k, v in support.fill(STDC(3, width=8)).state_dict().items()}
    extra = {"linear.weight": torch.zeros(2, 2), "x2.0.0.conv.weight": torch.zeros(1)}
    torch.save({"state_dict": theirs | extra}, tmp_path / "STDCNet813M.tar")
    grey = STDC(1, width=8)
    grey.load_pretrained(tmp_path / "STDCNet813M.tar")
    stem = grey.features[0].conv.weight
    torch.testing.assert_close(stem, theirs["features.0.conv.weight"].sum(1, keepdim=True))
    name = "features.7.conv_list.3.bn.running_var"
    assert torch.equal(grey.state_dict()[name], theirs[name])
    with pytest.raises(FileError, match=r"holds another network than this STDC: 20 tensors miss"):
        STDC(3, (2, 2, 3), width=8).load_pretrained(tmp_path / "STDCNet813M.tar")
    with pytest.raises(FileError, match="give weights of the same width"):
        STDC(3, width=16).load_pretrained(tmp_path / "STDCNet813M.tar")


def test_refusals() -> None:
    with pytest.raises(InputError, match="'stdc2' cannot have output_stride 8; use 32, or a trunk"):
        build_encoder("stdc2", output_stride=8)
    with pytest.raises(InputError, match=r"fetch STDCNet813M_73\.91\.tar or STDCNet1446_76\.47\."):
        build_encoder("stdc1", pretrained=True)
