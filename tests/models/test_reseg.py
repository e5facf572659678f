"""ReSeg: four sweeps by the cell's formula, the part of VGG16 before them, Lasagne's values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.recurrent.reseg import ReNet
from tests.models import support

SMALL = {"num_classes": 5, "width": 4, "units": 6, "filters": 8}


def test_counts_of_the_parts() -> None:
    with torch.device("meta"):
        model = create_model("reseg")
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert counts == {
        "encoder": 1_735_488,
        # of each pair of cells: three gates of input, state and two biases
        "renet": sum(2 * 3 * 100 * (cin + 100 + 2) for cin in (256, 200, 200, 200)),
        "up": 200 * 50 * 4 + 50 + 50 * 50 * 4 + 50,
        "classifier": 50 * 11 + 11,
    }
    # Lasagne's cells have one bias per gate
    assert sum(counts.values()) - 8 * 3 * 100 == 2_542_149


def test_sizes_of_the_parts() -> None:
    model = create_model("reseg", **SMALL).eval()
    with torch.no_grad():
        features = model.encoder(support.image(1, 3, 24, 40))
        swept = model.renet(features[-1])
        enlarged = model.up(swept)
        logits = model.classifier(enlarged)
    assert enlarged.min() == 0
    seen = [tuple(x.shape[1:]) for x in (*features, swept, enlarged, logits)]
    assert seen == [(4, 24, 40), (8, 12, 20), (16, 6, 10), (12, 6, 10), (8, 24, 40), (5, 24, 40)]


def test_the_trunk_is_vgg16s_beginning_with_its_weights(tmp_path: Path) -> None:
    tiny = [c if c == "M" else c // 16 for c in vgg.cfgs["D"]]
    whole = support.fill(vgg.make_layers(tiny))
    tensors = {f"features.{key}": value for key, value in whole.state_dict().items()}
    for layer, (cin, cout) in (("0", (32 * 49, 4)), ("3", (4, 4))):
        tensors[f"classifier.{layer}.weight"] = torch.zeros(cout, cin)
        tensors[f"classifier.{layer}.bias"] = torch.zeros(cout)
    torch.save(tensors, tmp_path / "vgg16.pth")
    model = create_model("reseg", **SMALL, pretrained=tmp_path / "vgg16.pth")
    images = support.image(1, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(images)[-1], whole[:16](images))
    with pytest.raises(InputError, match="published VGG16 weights have width 4, this trunk has 8"):
        create_model("reseg", width=8, pretrained=tmp_path / "vgg16.pth")


# ---- sweeps ------------------------------------------------------------------------------------


def lasagne_cell(line: list[Tensor], cells: nn.GRU, end: str) -> list[Tensor]:
    """Return the states along a line by the formula of Lasagne's GRULayer, which has one bias."""
    w = dict(zip("ruc", getattr(cells, f"weight_ih_l0{end}").chunk(3), strict=True))
    u = dict(zip("ruc", getattr(cells, f"weight_hh_l0{end}").chunk(3), strict=True))
    b = dict(zip("ruc", getattr(cells, f"bias_ih_l0{end}").chunk(3), strict=True))
    w["u"], u["u"], b["u"] = -w["u"], -u["u"], -b["u"]  # PyTorch's gate keeps, Lasagne's renews
    state, states = torch.zeros(cells.hidden_size, dtype=line[0].dtype), []
    for x in line:
        reset = torch.sigmoid(w["r"] @ x + u["r"] @ state + b["r"])
        update = torch.sigmoid(w["u"] @ x + u["u"] @ state + b["u"])
        candidate = torch.tanh(w["c"] @ x + b["c"] + reset * (u["c"] @ state))
        state = (1 - update) * state + update * candidate
        states.append(state)
    return states


def both_ways(line: list[Tensor], cells: nn.GRU) -> list[Tensor]:
    there = lasagne_cell(line, cells, "")
    back = lasagne_cell(line[::-1], cells, "_reverse")[::-1]
    return [torch.cat(pair) for pair in zip(there, back, strict=True)]


def test_columns_then_rows_by_the_formula_of_lasagne() -> None:
    layer = support.fill(ReNet(4, 3)).double()
    for cells in (layer.columns, layer.rows):
        for end in ("", "_reverse"):
            nn.init.zeros_(getattr(cells, f"bias_hh_l0{end}"))
    x = support.image(2, 4, 3, 5).double()
    with torch.no_grad():
        got = layer(x)
        for one, swept in zip(x, got, strict=True):
            columns = [both_ways(list(one[:, :, j].T), layer.columns) for j in range(5)]
            for i in range(3):
                row = both_ways([column[i] for column in columns], layer.rows)
                torch.testing.assert_close(swept[:, i], torch.stack(row, dim=1))
    assert got.shape == (2, 6, 3, 5)


def test_every_pixel_has_seen_all_others() -> None:
    layer = support.fill(ReNet(2, 3))
    x = support.image(1, 2, 4, 5).requires_grad_()
    for i, j in ((0, 0), (3, 4), (2, 1)):
        (gradient,) = torch.autograd.grad(layer(x)[0, :, i, j].sum(), x)
        assert gradient.ne(0).all()


# ---- values and refusals -----------------------------------------------------------------------


def test_initial_values_are_lasagnes() -> None:
    torch.manual_seed(0)
    model = create_model("reseg")
    for layer in model.renet:
        for cells in (layer.columns, layer.rows):
            for name, value in cells.named_parameters():
                assert value.std().item() == pytest.approx(0 if "bias" in name else 0.1, rel=0.02)
    first, last = model.up[0], model.classifier
    bound = math.sqrt(6 / ((200 + 50) * 4))
    assert bound * 0.99 < first.weight.abs().max() <= bound
    bound = math.sqrt(6 / (50 + 11))
    assert bound * 0.97 < last.weight.abs().max() <= bound
    assert not first.bias.any()
    assert not last.bias.any()


def test_settings_it_cannot_have() -> None:
    with pytest.raises(
        InputError,
        match="ReSeg needs a width, units, layers and filters of at least 1, got 64, 0, 2 and 50",
    ):
        create_model("reseg", units=0)


def test_settings_reach_the_parts() -> None:
    model = create_model("reseg", **SMALL, layers=3)
    assert [layer.columns.input_size for layer in model.renet] == [16, 12, 12]
    assert model.classifier.in_channels == 8
