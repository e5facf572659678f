"""ENet against the authors' Lua files and the paper's Table 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import semseg
from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import FileError, InputError
from semseg.core.labels import LabelMap
from semseg.models import create_model
from semseg.models.base import settings_of
from semseg.models.realtime.enet import ENet, Up
from tests.models import support


@pytest.mark.parametrize(
    ("classes", "encoder_only", "count"),
    # counted by hand from encoder.lua and decoder.lua
    [(19, False, 364_311), (12, False, 363_856), (20, False, 364_376), (19, True, 340_607)],
)
def test_counts_of_the_lua_files(classes: int, encoder_only: bool, count: int) -> None:
    with torch.device("meta"):
        model = create_model("enet", num_classes=classes, encoder_only=encoder_only)
    assert sum(p.numel() for p in model.parameters()) == count


def test_sizes_of_table_1() -> None:
    with torch.device("meta"):
        model = create_model("enet", num_classes=7).eval()
        images = torch.empty(1, 3, 512, 512)
    assert isinstance(model, ENet)
    parts = {
        "initial": model.encoder.initial_act,
        "bottleneck1": model.encoder.stage1,
        "bottleneck2": model.encoder.stage2,
        "bottleneck3": model.encoder.stage3,
        "bottleneck4": model.head.stage4,
        "bottleneck5": model.head.stage5,
        "fullconv": model.head.classifier,
    }
    seen = {}
    for name, part in parts.items():
        part.register_forward_hook(
            lambda _part, _args, out, name=name: seen.update({name: tuple(out.shape[1:])})
        )
    model(images)
    assert seen == {
        "initial": (16, 256, 256),
        "bottleneck1": (64, 128, 128),
        "bottleneck2": (128, 64, 64),
        "bottleneck3": (128, 64, 64),
        "bottleneck4": (64, 128, 128),
        "bottleneck5": (16, 256, 256),
        "fullconv": (7, 512, 512),
    }


@pytest.mark.parametrize("stage", ["stage2", "stage3"])
def test_the_eight_bottlenecks_of_a_stage(stage: str) -> None:
    model = create_model("enet")
    found = []
    for block in getattr(model.encoder, stage):
        reduce, *middle, expand = (m for m in block.modules() if isinstance(m, nn.Conv2d))
        assert (reduce.out_channels, reduce.bias, expand.bias) == (32, None, None)
        assert isinstance(block.activation, nn.PReLU)
        kinds = [(conv.kernel_size, conv.dilation[0], conv.bias is not None) for conv in middle]
        found.append(kinds)
    regular, asymmetric = [((3, 3), 1, True)], [((1, 5), 1, False), ((5, 1), 1, True)]
    dilated = {d: [((3, 3), d, True)] for d in (2, 4, 8, 16)}
    assert found == [
        *(regular, dilated[2], asymmetric, dilated[4]),
        *(regular, dilated[8], asymmetric, dilated[16]),
    ]


def test_constants_of_the_lua_files() -> None:
    model = create_model("enet")
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)]
    assert rates == [0.01] * 5 + [0.1] * 17
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    assert not [m for m in model.head.modules() if isinstance(m, nn.PReLU | nn.Dropout2d)]


def test_unpooling_puts_values_where_the_maxima_were() -> None:
    up = Up(4, 4).eval()
    nn.init.zeros_(up.branch[-1].weight)  # the branch gives its last norm's bias, which is zero
    with torch.no_grad():
        up.skip[0].weight.copy_(torch.eye(4)[..., None, None])
    x = torch.rand(1, 4, 5, 6) + 0.5
    big = support.noise(4 * 10 * 12).reshape(1, 4, 10, 12).float()
    _, switches = F.max_pool2d(big, 2, return_indices=True)
    with torch.no_grad():
        out = up(x, switches)
    here = out.flatten(2).gather(2, switches.flatten(2)).view_as(x)
    torch.testing.assert_close(here, x, rtol=1e-3, atol=0)  # the norm's epsilon
    assert int(out.count_nonzero()) == x.numel()


def test_first_stage_has_the_authors_output() -> None:
    record = json.loads((support.EXPECTED / "enet_encoder_only.json").read_text(encoding="utf-8"))
    model = support.fill(create_model("enet", **record["settings"]))
    got = support.outputs(model, support.image(*record["size"]))
    for mode, heads in record["outputs"].items():
        support.assert_described(got[mode]["logits"], heads["logits"], f"logits in {mode} mode")


def test_first_stage_learns_every_eighth_label() -> None:
    model = create_model("enet", num_classes=3, encoder_only=True).eval()
    images = torch.rand(1, 3, 61, 90)
    target = torch.randint(3, (1, 61, 90))
    heads = model.forward_heads(model.pad(images))
    (term,) = model.loss(heads, target, F.cross_entropy).values()
    assert heads["logits"].shape[-2:] == (8, 12)
    torch.testing.assert_close(term, F.cross_entropy(heads["logits"], target[:, ::8, ::8]))


def save(model: ENet, path: Path) -> Path:
    labels = LabelMap.from_dict({"classes": [f"c{i}" for i in range(model.config.num_classes)]})
    rule = semseg.model_entry("enet").preprocessing
    info = WeightsInfo(model="enet", settings=settings_of(model), labels=labels, preprocessing=rule)
    save_weights(path, model.state_dict(), info)
    return path


def test_second_stage_starts_from_the_first(tmp_path: Path) -> None:
    first = support.fill(create_model("enet", num_classes=3, encoder_only=True))
    path = save(first, tmp_path / "first.safetensors")
    second = create_model("enet", num_classes=3, pretrained=path)
    got, want = second.encoder.state_dict(), first.encoder.state_dict()
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)


def test_second_stage_refuses_what_is_no_first_stage(tmp_path: Path) -> None:
    grey = save(create_model("enet", in_channels=1), tmp_path / "grey.safetensors")
    with pytest.raises(FileError, match=r"grey\.safetensors holds enet for 1 channels"):
        create_model("enet", pretrained=grey)
    with pytest.raises(InputError, match="train enet with encoder_only=True"):
        create_model("enet", pretrained=True)
