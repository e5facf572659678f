"""ESPNet-A, -B, -C and ESPNet: the authors' counts, the module, the joining, the two stages."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import FileError, InputError
from semseg.models import create_model, model_entry
from semseg.models.base import settings_of
from semseg.models.realtime.espnet import CITYSCAPES, ESP, ESPNet
from tests.models import support

NAMES = {"a": "espnet_a", "b": "espnet_b", "c": "espnet_c", "full": "espnet"}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def esp_count(cin: int, cout: int, kernel: int = 1) -> int:
    """Reduction, five 3x3 branches of cout filters together, norm and slopes."""
    narrow = cout // 5
    return kernel * kernel * cin * narrow + 9 * narrow * cout + 3 * cout


# ---- counts and shapes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "first_stage", "whole"),
    [(3, 187_529, 203_189), (5, 252_297, 267_957), (8, 349_449, 365_109)],
)
def test_counts_of_the_authors_code(q: int, first_stage: int, whole: int) -> None:
    with torch.device("meta"):
        assert count(create_model("espnet_c", num_classes=20, q=q)) == first_stage
        assert count(create_model("espnet", num_classes=20, q=q)) == whole


@pytest.mark.parametrize(
    ("name", "image", "wide", "last"),
    [("espnet_a", 0, 64, 128), ("espnet_b", 0, 128, 256), ("espnet_c", 3, 131, 256)],
)
def test_counts_by_hand(name: str, image: int, wide: int, last: int) -> None:
    total = 27 * 16 + 3 * 16 + esp_count(16 + image, 64, kernel=3) + 2 * esp_count(64, 64)
    total += esp_count(wide, 128, kernel=3) + 8 * esp_count(128, 128) + last * 19
    joins = {"espnet_a": [], "espnet_b": [128, 256], "espnet_c": [19, 131, 256]}
    total += sum(3 * channels for channels in joins[name])
    assert model_entry(name).num_params == total


@pytest.mark.parametrize(
    ("variant", "channels"),
    [("a", (16, 64, 128)), ("b", (16, 128, 256)), ("c", (20, 132, 256)), ("full", (20, 132, 256))],
)
def test_shapes_of_the_levels(variant: str, channels: tuple[int, ...]) -> None:
    model = create_model(NAMES[variant], in_channels=4, num_classes=7)
    images = support.image(1, 4, 64, 96)
    with torch.inference_mode():
        features = model.encoder(images)
        logits = model.forward_heads(images)["logits"]
    assert model.encoder.out_channels == channels
    sizes = [(32, 48), (16, 24), (8, 12)]
    assert [f.shape[1:] for f in features] == [
        (c, *size) for c, size in zip(channels, sizes, strict=True)
    ]
    assert logits.shape == (1, 7, *((64, 96) if variant == "full" else (8, 12)))


def test_the_first_stage_is_what_the_whole_network_scores() -> None:
    """The decoder begins with ESPNet-C's own scores, so stage two starts where stage one ended."""
    whole = support.fill(create_model("espnet", num_classes=7, p=1, q=2))
    first = create_model("espnet_c", num_classes=7, p=1, q=2).eval()
    first.load_state_dict({k: v for k, v in whole.state_dict().items() if "decoder" not in k})
    met = []
    whole.decoder.register_forward_pre_hook(lambda _, inputs: met.append(inputs[-1]))
    images = support.image(1, 3, 64, 96)
    with torch.inference_mode():
        whole(images)
        assert torch.equal(met[0], first.forward_heads(images)["logits"])


# ---- the module --------------------------------------------------------------------------------


@pytest.mark.parametrize(("cin", "cout", "near", "far"), [(64, 64, 16, 12), (131, 128, 28, 25)])
def test_branches_of_a_module(cin: int, cout: int, near: int, far: int) -> None:
    module = ESP(cin, cout)
    assert module.reduce.weight.shape == (far, cin, 1, 1)
    assert ESP(cin, cout, stride=2).reduce.weight.shape == (far, cin, 3, 3)
    found = [(b.out_channels, b.dilation, b.padding) for b in module.branches]
    assert found == [(near if d == 1 else far, (d, d), (d, d)) for d in (1, 2, 4, 8, 16)]


def test_dilated_branches_are_summed_one_after_the_other() -> None:
    module = ESP(5, 5).eval()
    with torch.no_grad():
        module.reduce.weight.fill_(1)
        for power, branch in enumerate(module.branches):
            branch.weight.zero_()
            branch.weight[..., 1, 1] = 10**power
        out = module(torch.ones(1, 5, 3, 3))
    want = 5 * torch.tensor([1.0, 10, 110, 1110, 11110]) / math.sqrt(1 + 1e-3)
    torch.testing.assert_close(out[0, :, 1, 1], want)


def test_the_input_is_added_before_norm_and_activation() -> None:
    module = ESP(10, 10, residual=True).eval()
    for branch in module.branches:
        nn.init.zeros_(branch.weight)
    x = support.image(1, 10, 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(module(x), F.prelu(x / math.sqrt(1 + 1e-3), torch.tensor(0.25)))


def test_only_modules_that_keep_the_size_are_residual() -> None:
    model = create_model("espnet")
    residual = [m.residual for m in model.modules() if isinstance(m, ESP)]
    assert residual == [False, True, True, False] + [True] * 8 + [False]


# ---- constants, initial values, few classes ----------------------------------------------------


def test_constants_of_the_authors_code() -> None:
    model = create_model("espnet")
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert all(conv.bias is None for conv in convs)
    assert model.align_corners


def test_initial_values_are_torchs_own() -> None:
    model = create_model("espnet")
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
            bound = 1 / math.sqrt(conv.weight[0].numel())
            assert 0.8 * bound < conv.weight.abs().max().item() <= 1.001 * bound
        if isinstance(conv, nn.PReLU):
            assert conv.weight.eq(0.25).all()


@pytest.mark.parametrize(("classes", "is_esp"), [(4, False), (5, True)])
def test_fewer_than_five_classes_have_no_module_in_the_decoder(classes: int, is_esp: bool) -> None:
    merge = create_model("espnet", num_classes=classes).decoder.merge2[-1]
    assert isinstance(merge, ESP) is is_esp
    if not is_esp:
        assert merge[0].weight.shape == (4, 8, 3, 3)


def test_images_are_normalised_as_the_authors_do() -> None:
    image = torch.full((3, 1, 1), 200, dtype=torch.uint8)
    want = [(200 - m) / s / 255 for m, s in ((73.158, 44.915), (82.909, 46.153), (72.392, 45.319))]
    assert CITYSCAPES(image).flatten().tolist() == pytest.approx(want, rel=1e-3)


# ---- two stages --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["espnet_a", "espnet_b", "espnet_c"])
def test_first_stage_learns_every_eighth_label(name: str) -> None:
    model = create_model(name, num_classes=3, p=1, q=1).eval()
    images, target = torch.rand(1, 3, 61, 90), torch.randint(3, (1, 61, 90))
    heads = model.forward_heads(model.pad(images))
    (term,) = model.loss(heads, target, F.cross_entropy).values()
    assert heads["logits"].shape[-2:] == (8, 12)
    torch.testing.assert_close(term, F.cross_entropy(heads["logits"], target[:, ::8, ::8]))


def save(model: ESPNet, path: Path, name: str) -> Path:
    rule = model_entry(name).preprocessing
    info = WeightsInfo(model=name, settings=settings_of(model), labels=None, preprocessing=rule)
    save_weights(path, model.state_dict(), info)
    return path


def test_second_stage_starts_from_the_first(tmp_path: Path) -> None:
    first = support.fill(create_model("espnet_c", num_classes=3))
    path = save(first, tmp_path / "best.safetensors", "espnet_c")
    for source in (path, tmp_path):  # a file, or the folder of its run
        second = create_model("espnet", num_classes=3, pretrained=source).state_dict()
        assert all(torch.equal(second[k], v) for k, v in first.state_dict().items())


def test_second_stage_refuses_what_is_no_first_stage(tmp_path: Path) -> None:
    grey = save(create_model("espnet_c", in_channels=1), tmp_path / "grey", "espnet_c")
    with pytest.raises(FileError, match="grey holds espnet_c with other settings than this"):
        create_model("espnet", pretrained=grey)
    other = save(create_model("espnet_b"), tmp_path / "other", "espnet_b")
    with pytest.raises(FileError, match=r"other holds espnet_b; ESPNet starts from espnet_c$"):
        create_model("espnet", pretrained=other)
    wanted = (
        r"^ESPNet starts from the file or run of an espnet_c, got True; "
        r"recipes/camvid_espnet_c\.yaml trains one$"
    )
    with pytest.raises(InputError, match=wanted):
        create_model("espnet", pretrained=True)
    with pytest.raises(InputError, match="ESPNet has no trunk with published weights"):
        create_model("espnet_c", pretrained=True)


# ---- refusals ----------------------------------------------------------------------------------


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"^ESPNet has variants a, b, c, full, got 'd'$"):
        create_model("espnet", variant="d")
    with pytest.raises(InputError, match=r"^ESPNet needs p and q of at least 1, got 2 and 0$"):
        create_model("espnet_a", q=0)
    model = create_model("espnet", num_classes=5).train()
    with pytest.raises(InputError, match="ESPNet cannot train on one image of this size"):
        model(torch.rand(1, 3, 8, 5))
    assert model(torch.rand(1, 3, 8, 9)).isfinite().all()
