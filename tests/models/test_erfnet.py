"""ERFNet: factorised residual blocks, and an encoder that is trained first."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import UNIT
from semseg.models import create_model
from semseg.models.base import settings_of
from semseg.models.realtime.erfnet import Down, ERFNet, NonBottleneck1d
from tests.models import support


@pytest.mark.parametrize(
    ("classes", "encoder_only", "count"),
    # the authors' Net, counted there: 2,066,836 at 20 classes, 2,066,642 at 19, both with a first
    # stage's classifier of 128 K + K
    [
        (19, False, 2_066_642 - 19 * 129),
        (20, False, 2_066_836 - 20 * 129),
        (19, True, 1_876_495),
    ],
)
def test_counts_of_the_authors_network(classes: int, encoder_only: bool, count: int) -> None:
    with torch.device("meta"):
        model = create_model("erfnet", num_classes=classes, encoder_only=encoder_only)
    assert sum(p.numel() for p in model.parameters()) == count


def test_sizes_of_the_layers() -> None:
    with torch.device("meta"):
        model = create_model("erfnet", num_classes=7).eval()
        images = torch.empty(1, 3, 512, 1024)
    seen = []
    for part in (*model.encoder, *model.head):
        part.register_forward_hook(lambda _part, _args, out: seen.append(tuple(out.shape[1:])))
    model(images)
    assert seen == [
        (16, 256, 512),
        *[(64, 128, 256)] * 6,
        *[(128, 64, 128)] * 9,
        (64, 128, 256),
        (16, 256, 512),
        (7, 512, 1024),
    ]


def test_blocks_dilate_their_second_pair_and_drop_channels() -> None:
    model = create_model("erfnet")
    blocks = [m for m in model.modules() if isinstance(m, NonBottleneck1d)]
    kinds = {nn.Conv2d: "conv", nn.ReLU: "relu", nn.BatchNorm2d: "norm", nn.Dropout2d: "drop"}
    pair = ["conv", "relu", "conv", "norm"]
    found = []
    for block in blocks:
        names = [kinds[type(layer)] for layer in block.branch]
        rate = block.branch[-1].p if names.pop() == "drop" else 0
        assert names[:8] == [*pair, "relu", *pair][:8]
        convs = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]
        assert [conv.kernel_size for conv in convs] == [(3, 1), (1, 3)] * 2
        assert [conv.dilation for conv in convs[:2]] == [(1, 1)] * 2
        assert all(conv.bias is not None for conv in convs)
        (d, one), (same, e) = convs[2].dilation, convs[3].dilation
        assert (one, same, e) == (1, 1, d)
        found.append((d, rate))
    wide = [(d, 0.3) for d in (2, 4, 8, 16)]
    assert found == [(1, 0.03)] * 5 + wide * 2 + [(1, 0)] * 4
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}


def test_a_block_is_a_residual_activated_after_its_sum() -> None:
    block = NonBottleneck1d(4).eval()
    nn.init.zeros_(block.branch[-1].weight)
    x = support.image(1, 4, 5, 6)
    assert torch.equal(block(x), F.relu(x))


def test_halving_puts_the_pooled_input_behind_its_filters() -> None:
    block = Down(3, 5, eps=0.0).eval()
    x = support.image(1, 3, 8, 10)
    with torch.no_grad():
        out = block(x)
    assert out.shape == (1, 5, 4, 5)
    torch.testing.assert_close(out[:, 2:], F.relu(F.max_pool2d(x, 2)))


def test_initial_weights_are_pytorchs() -> None:
    torch.manual_seed(0)
    conv = create_model("erfnet").encoder[-1].branch[0]
    bound = 1 / math.sqrt(128 * 3)  # uniform; the authors' own rule is commented out
    assert conv.weight.abs().max() <= bound
    assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


# ---- two stages --------------------------------------------------------------------------------


def test_first_stage_has_the_authors_output() -> None:
    record = json.loads((support.EXPECTED / "erfnet_encoder_only.json").read_text(encoding="utf-8"))
    model = support.fill(create_model("erfnet", **record["settings"]))
    got = support.outputs(model, support.image(*record["size"]))
    for mode, heads in record["outputs"].items():
        support.assert_described(got[mode]["logits"], heads["logits"], f"logits in {mode} mode")


def test_first_stage_learns_the_label_at_each_centre() -> None:
    model = create_model("erfnet", num_classes=3, encoder_only=True).eval()
    images = torch.rand(1, 3, 59, 90)
    target = torch.randint(3, (1, 59, 90))
    heads = model.forward_heads(model.pad(images))
    (term,) = model.loss(heads, target, F.cross_entropy).values()
    assert heads["logits"].shape[-2:] == (8, 12)
    rows, columns = [4, 12, 20, 28, 36, 44, 52, 58], [*range(4, 89, 8), 89]
    assert len(columns) == 12
    want = F.cross_entropy(heads["logits"], target[:, rows][:, :, columns])
    torch.testing.assert_close(term, want)


def test_first_stage_takes_the_labels_that_nearest_neighbours_give() -> None:
    model = create_model("erfnet", num_classes=3, encoder_only=True).eval()
    target = torch.randint(3, (1, 64, 96))
    heads = model.forward_heads(torch.rand(1, 3, 64, 96))
    kept = []
    model.loss(heads, target, lambda logits, small: kept.append(small) or logits.sum())
    want = F.interpolate(target[None].float(), (8, 12), mode="nearest-exact")[0].long()
    assert torch.equal(kept[0], want)


def save(model: ERFNet, path: Path, name: str = "erfnet") -> Path:
    info = WeightsInfo(model=name, settings=settings_of(model), labels=None, preprocessing=UNIT)
    save_weights(path, model.state_dict(), info)
    return path


def test_second_stage_starts_from_the_first(tmp_path: Path) -> None:
    first = support.fill(create_model("erfnet", num_classes=3, encoder_only=True))
    path = save(first, tmp_path / "best.safetensors")
    for source in (path, tmp_path):  # a file, or the folder of its run
        second = create_model("erfnet", num_classes=3, pretrained=source)
        got, want = second.encoder.state_dict(), first.encoder.state_dict()
        assert got.keys() == want.keys()
        assert all(torch.equal(got[key], want[key]) for key in want)
        assert {id(p) for p in second.parameter_groups()["encoder"]} == {
            id(p) for p in second.encoder.parameters()
        }


def test_second_stage_refuses_what_is_no_first_stage(tmp_path: Path) -> None:
    grey = save(create_model("erfnet", in_channels=1, encoder_only=True), tmp_path / "grey")
    with pytest.raises(FileError, match="grey holds erfnet with other settings than this network"):
        create_model("erfnet", pretrained=grey)
    whole = save(create_model("erfnet"), tmp_path / "whole")
    with pytest.raises(FileError, match="whole holds erfnet with other settings than this network"):
        create_model("erfnet", pretrained=whole)
    other = save(create_model("erfnet"), tmp_path / "other", name="enet")
    with pytest.raises(FileError, match=r"other holds enet; ERFNet starts from erfnet$"):
        create_model("erfnet", pretrained=other)
    wanted = (
        "^ERFNet starts from the file or run of an erfnet trained with encoder_only=True, got True;"
        r" recipes/camvid_erfnet_encoder\.yaml trains one$"
    )
    with pytest.raises(InputError, match=wanted):
        create_model("erfnet", pretrained=True)


# ---- refusals ----------------------------------------------------------------------------------


def test_channels_beyond_the_second_block_are_refused() -> None:
    with torch.device("meta"):
        assert create_model("erfnet", in_channels=50).encoder[1].conv.out_channels == 1
    wanted = (
        "^ERFNet takes at most 50 channels, got 51; its second block has 64, the input's among "
        "them$"
    )
    with pytest.raises(InputError, match=wanted):
        create_model("erfnet", in_channels=51)


def test_one_small_image_cannot_be_trained_on() -> None:
    model = create_model("erfnet", num_classes=2).train()
    with pytest.raises(InputError, match="ERFNet cannot train on one image of this size"):
        model(torch.rand(1, 3, 8, 5))
    assert model(torch.rand(1, 3, 8, 9)).isfinite().all()
