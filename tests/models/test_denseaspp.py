"""DenseASPP: the dilated DenseNet, what each pyramid layer sees, published weights."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import DenseNet
from torchvision.models._api import WeightsEnum

from semseg.core.checks import FileError, InputError
from semseg.models import create_model, model_entry
from semseg.models.base import SegmentationModel
from semseg.models.dilated.denseaspp import SIZES, DilatedDenseNet
from tests.models import support

TINY = {"growth_rate": 2, "layers": (1, 2, 2, 1)}
NAMES = ("denseaspp_121", "denseaspp_161", "denseaspp_169", "denseaspp_201")


def small(**settings: object) -> SegmentationModel:
    return create_model("denseaspp_121", **({"num_classes": 5, "widths": (4, 3)} | TINY | settings))


def densenet() -> DenseNet:
    """torchvision's DenseNet of the same size, filled."""
    reference = DenseNet(
        TINY["growth_rate"], TINY["layers"], 2 * TINY["growth_rate"], num_classes=7
    )
    return support.fill(reference)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_shapes(name: str) -> None:
    config = model_entry(name).config
    assert (config.growth_rate, config.layers) == SIZES[name.replace("aspp_", "net")]
    with torch.device("meta"):
        model = create_model(name).eval()
        features = model.encoder(torch.empty(1, 3, 64, 96))
        logits = model.forward_heads(torch.empty(1, 3, 64, 96))["logits"]
    # each block adds, each transition halves; stock DenseNets end in these numbers
    last = {"121": 1024, "161": 2208, "169": 1664, "201": 1920}[name[-3:]]
    assert model.encoder.channels[-1] == last
    assert [tuple(f.shape[-2:]) for f in features] == [(16, 24), (8, 12), (8, 12), (8, 12)]
    assert logits.shape == (1, 19, 8, 12)
    seen = [layer[-2].in_channels for layer in model.pyramid]
    assert seen == [config.widths[0]] * 5
    assert model.head[1].in_channels == last // 2 + 5 * config.widths[1]


def test_what_each_pyramid_layer_holds() -> None:
    model = small()
    reduced, added = model.encoder.channels[-1] // 2, 3
    kinds = [nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.Dropout2d]
    for i, (layer, rate) in enumerate(zip(model.pyramid, (3, 6, 12, 18, 24), strict=True)):
        assert [type(m) for m in layer] == (kinds if i else kinds[2:])
        one, three = (m for m in layer if isinstance(m, nn.Conv2d))
        assert one.in_channels == reduced + i * added
        assert three.dilation == three.padding == (rate, rate)
        assert one.bias is not None
        assert three.bias is not None
        assert {m.momentum for m in layer if isinstance(m, nn.BatchNorm2d)} == {0.0003}
        assert layer[-1].p == 0.1
    trunk = [*model.encoder.modules(), *model.reduce.modules(), model.norm]
    assert {m.momentum for m in trunk if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert (type(model.head[0]), model.head[0].p) == (nn.Dropout2d, 0.1)


def test_the_reduced_feature_is_seen_activated_and_behind_the_new_ones() -> None:
    model = support.fill(small())
    images = support.image(1, 3, 32, 40)
    got: list[Tensor] = []
    model.head[1].register_forward_hook(lambda _, inputs, __: got.append(inputs[0]))
    model.forward_heads(images)
    reduced = model.norm(model.reduce(model.encoder(images)[-1]))
    assert reduced.lt(0).any()
    torch.testing.assert_close(got[0][:, 15:], F.relu(reduced))
    torch.testing.assert_close(got[0][:, 12:15], model.pyramid[0](F.relu(reduced)))
    assert got[0][:, :15].lt(0).any(), "what the layers add is not activated"


def test_blocks_are_dilated_and_only_the_first_transition_pools() -> None:
    trunk = small().encoder
    for i, dilation in enumerate((1, 1, 2, 4), 1):
        block = trunk.get_submodule(f"denseblock{i}")
        assert {layer.conv2.dilation for layer in block} == {(dilation, dilation)}
        assert {layer.conv2.padding for layer in block} == {(dilation, dilation)}
    assert [trunk.get_submodule(f"transition{i}").pool for i in (1, 2, 3)] == [True, False, False]


def test_the_trunk_is_torchvisions_up_to_stride_8() -> None:
    reference, trunk = densenet(), DilatedDenseNet(3, **TINY).eval()
    own = trunk.state_dict()
    theirs = {k.removeprefix("features."): v for k, v in reference.state_dict().items()}
    assert theirs.keys() - own.keys() == {
        "classifier.weight",
        "classifier.bias",
        *(f"norm5.{k}" for k in ("weight", "bias", "running_mean", "running_var")),
        "norm5.num_batches_tracked",
    }
    trunk.load_state_dict({k: theirs[k] for k in own})
    images = support.image(1, 3, 64, 96)
    x = reference.features[:7](images)  # up to the second dense block
    torch.testing.assert_close(trunk(images)[1], x)


@pytest.mark.parametrize("old", [False, True])
def test_published_files_fit(old: bool, tmp_path: Path) -> None:
    reference = densenet().state_dict()
    if old:  # torchvision's files have dots where its layers have none, and no counters
        names = ("norm", "conv")
        for name in names:
            for i in "12":
                pairs = reference.items()
                reference = {
                    (k.replace(f".{name}{i}.", f".{name}.{i}.") if "denselayer" in k else k): v
                    for k, v in pairs
                    if not k.endswith("num_batches_tracked")
                }
        assert "features.denseblock1.denselayer1.norm.1.weight" in reference
    torch.save(dict(reference), tmp_path / "densenet.pth")
    model, grey = small(), small(in_channels=1)
    before = model.reduce.conv.weight.clone()
    model.load_pretrained(tmp_path / "densenet.pth")
    grey.load_pretrained(tmp_path / "densenet.pth")
    want = densenet().features
    assert torch.equal(
        model.encoder.denseblock4.denselayer1.conv2.weight,
        want.denseblock4.denselayer1.conv2.weight,
    )
    assert torch.equal(model.encoder.norm0.running_var, want.norm0.running_var)
    assert torch.equal(model.reduce.conv.weight, before), "the reduction is new"
    stem = want.conv0.weight.sum(1, keepdim=True)
    torch.testing.assert_close(grey.encoder.conv0.weight, stem)


def test_true_takes_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def state_dict(weights: WeightsEnum, **_: object) -> dict[str, Tensor]:
        asked.append(str(weights))
        raise URLError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", state_dict)
    for name, (growth, layers) in SIZES.items():
        with torch.device("meta"):
            trunk = DilatedDenseNet(3, growth, layers)
        with pytest.raises(
            FileError, match=f"torchvision's {name} weights cannot be had: .*no rout"
        ):
            trunk.load_pretrained()
    assert asked == [f"DenseNet{n}_Weights.IMAGENET1K_V1" for n in (121, 161, 169, 201)]
    with pytest.raises(InputError, match=r"growth_rate 2 and layers \(1, 2, 2, 1\); give a file"):
        small().load_pretrained()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(densenet().state_dict(), path)
    with pytest.raises(
        FileError, match=r"other\.pth holds another .*: 0 tensors missing, 12 too many"
    ):
        small(layers=(1, 1, 2, 1)).load_pretrained(path)
    with pytest.raises(
        FileError, match=r"10 tensors missing, 0 too many .*block2\.denselayer3\.norm1"
    ):
        small(layers=(1, 3, 2, 1)).load_pretrained(path)
    with pytest.raises(
        FileError, match=r"conv0\.weight has shape \(4, 3, 7, 7\), this DenseNet has"
    ):
        small(growth_rate=3).load_pretrained(path)


def test_weights_start_he_uniform() -> None:
    model = create_model("denseaspp_121")
    for conv in (model.encoder.denseblock3.denselayer5.conv1, model.pyramid[2][2], model.head[1]):
        bound = math.sqrt(6 / conv.weight[0].numel())
        assert bound * 0.98 < conv.weight.abs().max() <= bound


def test_scores_are_enlarged_with_aligned_corners() -> None:
    scores = support.image(1, 5, 4, 6)
    out = small().enlarge(scores, (32, 48))
    assert torch.equal(out[..., ::31, ::47], scores[..., ::3, ::5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": (1, 2, 3)}, r"takes 4 blocks of at least one layer, got layers=\(1, 2, 3\)"),
        ({"widths": (4, 0)}, r"growth_rate and widths of at least 1, got 2 and \(4, 0\)"),
        ({"dropout": 1.0}, r"takes dropout in \[0, 1\), got 1.0"),
        ({"norm_momentum": 0.0}, r"takes norm_momentum in \(0, 1\], got 0.0"),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"DenseASPP {message}|{message}"):
        small(**settings)


def test_training_on_one_pixel_is_refused() -> None:
    with pytest.raises(InputError, match="DenseASPP cannot train on one image of this size"):
        small().train()(support.image(1, 3, 8, 8))
