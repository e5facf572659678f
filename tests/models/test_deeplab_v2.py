"""What is DeepLab v2's own: summed classifiers, three image sizes, frozen normalisation."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semseg import create_model
from semseg.core.checks import InputError
from semseg.encoders.base import Encoder
from semseg.models.base import SegmentationModel
from semseg.models.dilated import deeplab_v2
from semseg.models.dilated.deeplab_v2 import ASPP
from tests.models import support

SMALL = {"depths": (1, 1, 1, 1), "width": 4, "num_classes": 5}


def small(**settings: object) -> SegmentationModel:
    return support.fill(create_model("deeplab_v2_resnet101", **SMALL | settings))


# ---- outputs ---------------------------------------------------------------------------------


def test_one_scale_matches_another_reference() -> None:
    path = support.EXPECTED / "deeplab_v2_resnet101_single_scale.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    settings = record["settings"] | {"depths": tuple(record["settings"]["depths"])}
    model = support.fill(create_model("deeplab_v2_resnet101", **settings))
    got = support.outputs(model, support.image(*record["size"]))
    for mode, heads in record["outputs"].items():
        support.assert_described(got[mode]["logits"], heads["logits"], f"logits in {mode} mode")


def test_aspp_is_a_sum_of_classifiers() -> None:
    aspp = support.fill(ASPP(8, 5, (1, 2)))
    x = support.image(1, 8, 7, 9)
    want = sum(
        F.conv2d(x, aspp.branches[i].weight, aspp.branches[i].bias, padding=r, dilation=r)
        for i, r in enumerate((1, 2))
    )
    torch.testing.assert_close(aspp(x), want)


def test_scales_have_the_papers_sizes_and_are_fused_by_their_maximum() -> None:
    heads = small().forward_heads(support.image(1, 3, 321, 65))
    shapes = {name: tuple(scores.shape[1:]) for name, scores in heads.items()}
    assert shapes == {
        "logits": (5, 41, 9),
        "scale_100": (5, 41, 9),
        "scale_75": (5, 31, 7),
        "scale_50": (5, 21, 5),
    }
    # where a coarser score stands on a finer one, it is taken as it is
    coarse = torch.stack([heads["scale_100"][..., ::2, ::2], heads["scale_50"]]).amax(0)
    assert (heads["logits"][..., ::2, ::2] >= coarse).all()
    corners = torch.stack([heads[name][..., ::8, ::8][..., :1, :1] for name in shapes])
    torch.testing.assert_close(corners[0], corners[1:].amax(0))


def test_the_loss_sums_all_scales_and_their_maximum() -> None:
    model = small()
    seen: dict[tuple[int, ...], Tensor] = {}

    def criterion(logits: Tensor, target: Tensor) -> Tensor:
        seen[tuple(target.shape[-2:])] = target
        return torch.tensor(1.0)

    target = torch.arange(65)[None, None].expand(1, 65, 65)
    terms = model.loss(model.forward_heads(support.image(1, 3, 65, 65)), target, criterion)
    assert {name: term.item() for name, term in terms.items()} == dict.fromkeys(
        ("logits", "scale_100", "scale_75", "scale_50"), 1.0
    )
    assert seen[9, 9][0, 0].tolist() == list(range(0, 65, 8))
    assert seen[7, 7][0, 0].tolist() == [0, 11, 21, 32, 43, 53, 64]
    assert seen[5, 5][0, 0].tolist() == [0, 16, 32, 48, 64]


@pytest.mark.parametrize("size", [(33, 65), (50, 70)])
def test_scores_stand_on_every_eighth_pixel(size: tuple[int, int]) -> None:
    model = small().double()
    images = support.image(1, 3, *size).double()
    with torch.no_grad():
        on_grid = model(images)[..., ::8, ::8]
        logits = model.forward_heads(model.pad(images))["logits"]
    torch.testing.assert_close(on_grid, logits[..., : on_grid.shape[-2], : on_grid.shape[-1]])


# ---- trunks and initial weights ----------------------------------------------------------------


def test_a_trunk_off_the_corners_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patches(Encoder):
        channels, strides = (8,), (8,)

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 8, stride=8)

        def forward(self, images: Tensor) -> list[Tensor]:
            return [self.conv(images)]

    monkeypatch.setattr(deeplab_v2, "build_encoder", lambda *args: Patches())
    model = small(encoder="patches", multi_scale=False)
    with pytest.raises(InputError, match=r"gives \(4, 4\) for \(33, 33\). Choose a ResNet"):
        model(support.image(1, 3, 33, 33))


def test_classifiers_start_small() -> None:
    torch.manual_seed(0)
    for model in (
        create_model("deeplab_v2_resnet101", **SMALL).aspp.branches,
        [b.fc8 for b in create_model("deeplab_v2_vgg16", width=4, hidden=1024).branches],
    ):
        for classifier in model:
            assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
            assert not classifier.bias.any()


def test_frozen_norms_keep_statistics_and_scales() -> None:
    model = small(freeze_norm=True, multi_scale=False).train()
    assert model.training
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model.forward_heads(support.image(2, 3, 33, 33))["logits"].sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if "running" in k)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.weight.requires_grad or m.bias.requires_grad for m in norms)


def test_without_frozen_norms_the_paper_trains_fewer() -> None:
    with torch.device("meta"):
        model = create_model("deeplab_v2_resnet101", freeze_norm=True)
    # 52,672 channels with a scale and a shift each
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 43_943_188


# ---- VGG16 -------------------------------------------------------------------------------------


def test_vgg16_branches_differ_in_rate_alone() -> None:
    model = create_model("deeplab_v2_vgg16", width=4, hidden=32)
    assert [b.fc6.dilation for b in model.branches] == [(r, r) for r in (6, 12, 18, 24)]
    weights = {k: torch.ones_like(v) for k, v in model.encoder.convs.state_dict().items()}
    weights |= {"fc6.weight": support.noise(64 * 32 * 49).view(64, 32, 7, 7).float()}
    weights |= {"fc7.weight": support.noise(64 * 64).view(64, 64, 1, 1).float()}
    weights |= {"fc6.bias": torch.zeros(64), "fc7.bias": torch.zeros(64)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deeplab_v2, "read_vgg16_weights", lambda source: weights)
        model.load_pretrained()
    first, *rest = model.branches
    for branch in rest:
        assert torch.equal(branch.fc6.weight, first.fc6.weight)
        assert torch.equal(branch.fc7.weight, first.fc7.weight)
    assert first.fc6.weight[0, 0, 1, 1] == weights["fc6.weight"][0, 0, 3, 3]
