"""HRNet's trunk: its branches, its exchange, the classifier's weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from semseg.core.checks import FileError, InputError
from semseg.encoders import build_encoder
from semseg.encoders.hrnet import HRModule, HRNet
from tests.models import support

TINY = {"width": 4, "modules": (1, 2, 1), "blocks": 1}


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize("width", [18, 32, 48])
def test_layers_are_the_classifiers(width: int) -> None:
    with torch.device("meta"):
        ours = build_encoder(f"hrnet_w{width}_seg").state_dict()
        theirs = timm.create_model(f"hrnet_w{width}").state_dict()
    assert all(theirs[key].shape == value.shape for key, value in ours.items())
    beyond = {key.partition(".")[0] for key in theirs.keys() - ours.keys()}
    assert beyond == {"incre_modules", "downsamp_modules", "final_layer", "classifier"}


def test_depths_are_the_papers() -> None:
    with torch.device("meta"):
        trunk = build_encoder("hrnet_w48_seg")
    assert [len(trunk.get_submodule(f"stage{i}")) for i in (2, 3, 4)] == [1, 4, 3]
    assert len(trunk.layer1) == 4
    for i in (2, 3, 4):
        for module in trunk.get_submodule(f"stage{i}"):
            assert [len(branch) for branch in module.branches] == [4] * i
            widths = [branch[0].conv1.in_channels for branch in module.branches]
            assert widths == [48, 96, 192, 384][:i]


def test_sides_are_rounded_up_at_each_halving() -> None:
    trunk = HRNet(3, **TINY).eval()
    assert trunk.strides == (4, 8, 16, 32)
    shapes = [tuple(f.shape[1:]) for f in trunk(support.image(1, 3, 67, 98))]
    assert shapes == [(4, 17, 25), (8, 9, 13), (16, 5, 7), (32, 3, 4)]


def test_initial_weights_are_the_authors() -> None:
    torch.manual_seed(0)
    trunk = HRNet(3, width=16, modules=(1, 1, 1), blocks=1)
    weights = [m.weight.flatten() for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    assert torch.cat(weights).std().item() == pytest.approx(0.001, rel=0.02)


# ---- exchange ----------------------------------------------------------------------------------


def exchange_only(align_corners: bool) -> HRModule:
    """Two branches of one channel whose blocks let positive values pass and whose paths add."""
    module = HRModule([1, 1], 1, align_corners).eval()
    for branch in module.branches:
        nn.init.zeros_(branch[0].bn2.weight)
    for conv in module.fuse_layers.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.zeros_(conv.weight)
            conv.weight.data[..., conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = 1
        if isinstance(conv, nn.BatchNorm2d):
            conv.eps = 0.0
    return module


def test_each_branch_receives_the_sum_of_all() -> None:
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    coarse = torch.tensor([[[[0.0, 100.0], [0.0, 100.0]]]])
    with torch.inference_mode():
        got = exchange_only(align_corners=False)([fine, coarse])
        corners = exchange_only(align_corners=True)([fine, coarse])
    between = torch.tensor([0.0, 25, 75, 100])  # pixel centres at a quarter and three quarters
    assert torch.equal(got[0], fine + between)
    assert torch.equal(got[1], coarse + fine[..., ::2, ::2])
    torch.testing.assert_close(corners[0] - fine, torch.linspace(0, 100, 4).expand(1, 1, 4, 4))


def test_the_sum_is_activated_and_the_paths_are_not() -> None:
    module = exchange_only(align_corners=False)
    fine, coarse = torch.full((1, 1, 4, 4), 3.0), torch.ones(1, 1, 2, 2)
    up = module.fuse_layers[0][1][0]
    nn.init.constant_(up.weight, -1)
    with torch.inference_mode():
        assert module([fine, coarse])[0].eq(2).all(), "a negative part is subtracted"
        assert module([fine, 9 * coarse])[0].eq(0).all()
        nn.init.constant_(module.fuse_layers[1][0][0][0].weight, -1)
        nn.init.zeros_(module.fuse_layers[1][0][0][1].weight)
        nn.init.constant_(module.fuse_layers[1][0][0][1].bias, -2)
        assert module([fine, 5 * coarse])[1].eq(3).all()
    way_down = HRNet(3, **TINY).stage4[0].fuse_layers[3][0]
    assert [isinstance(step[-1], nn.ReLU) for step in way_down] == [True, True, False]


def test_a_new_branch_starts_from_the_coarsest() -> None:
    trunk = support.fill(HRNet(3, **TINY))
    seen = {}
    for i in (1, 2, 3):
        last = trunk.get_submodule(f"transition{i}")[-1]
        last.register_forward_hook(lambda m, x, y, i=i: seen.__setitem__(i, (x[0], y)))
    trunk(support.image(1, 3, 64, 64))
    assert {i: tuple(x.shape[1:]) for i, (x, _) in seen.items()} == {
        1: (256, 16, 16),
        2: (8, 8, 8),
        3: (16, 4, 4),
    }
    assert all((y >= 0).all() for _, y in seen.values())


# ---- published weights -------------------------------------------------------------------------


def test_the_authors_file_is_loaded_and_adapted(tmp_path: Path) -> None:
    theirs = {k: v.clone() for k, v in support.fill(HRNet(3, **TINY)).state_dict().items()}
    path = tmp_path / "hrnetv2.pth"
    torch.save(theirs | {"classifier.weight": torch.zeros(2, 2)}, path)
    grey = HRNet(1, **TINY)
    grey.load_pretrained(path)
    torch.testing.assert_close(grey.conv1.weight, theirs["conv1.weight"].sum(1, keepdim=True))
    name = "stage4.0.fuse_layers.3.0.2.1.running_var"
    assert torch.equal(grey.state_dict()[name], theirs[name])
    old = {k: v for k, v in theirs.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, path)
    HRNet(3, **TINY).load_pretrained(path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(HRNet(3, **TINY).state_dict(), path)
    with pytest.raises(FileError, match=r"another network than HRNet-W4: \d+ of \d+ tensors are"):
        HRNet(3, width=4, modules=(1, 3, 1), blocks=1).load_pretrained(path)
    wanted = (
        f"{path}: transition1.0.0.weight has shape (4, 256, 3, 3), HRNet-W8 has (8, 256, 3, 3); "
        "give weights of the same width"
    )
    with pytest.raises(FileError, match=re.escape(wanted)):
        HRNet(3, width=8, modules=(1, 2, 1), blocks=1).load_pretrained(path)
    wanted = (
        "an HRNet of this size (width 4) has no published weights; create it without pretrained, "
        "or give a file with pretrained=PATH"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        HRNet(3, **TINY).load_pretrained()


def test_refusals() -> None:
    wanted = (
        "encoder 'hrnet_w18_seg' cannot have output_stride 8; use 32: its finest branch has stride "
        "4 all the way"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        build_encoder("hrnet_w18_seg", output_stride=8)
    wanted = (
        "HRNet takes a width, blocks and three numbers of modules of at least 1, got width 4, "
        "blocks 1, modules (1, 0, 1)"
    )
    with pytest.raises(InputError, match=re.escape(wanted)):
        HRNet(3, width=4, modules=(1, 0, 1), blocks=1)
