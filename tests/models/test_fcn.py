"""What is FCN's own: frozen bilinear enlarging, scores from zero, training in stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import vgg

from semseg import create_model, model_entry
from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import IMAGENET
from semseg.models.base import settings_of
from semseg.nn.upsample import BilinearDeconv
from tests.models import support

NAMES = ("fcn_32s_vgg16", "fcn_16s_vgg16", "fcn_8s_vgg16")
SMALL = {"width": 4, "num_classes": 5}


# ---- enlarging ---------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_the_deconvolution_is_caffes_full_kernel(factor: int) -> None:
    x = support.image(2, 3, 4, 5)
    # as the authors' surgery.py fills it: zero off the diagonal
    position = torch.arange(2 * factor)
    tent = 1 - (position - (2 * factor - 1) / 2).abs() / factor
    kernel = torch.zeros(3, 3, 2 * factor, 2 * factor)
    for channel in range(3):
        kernel[channel, channel] = torch.outer(tent, tent)
    want = F.conv_transpose2d(x, kernel, stride=factor)
    torch.testing.assert_close(BilinearDeconv(factor)(x), want)


def test_away_from_the_border_it_is_bilinear_interpolation() -> None:
    x = support.image(1, 2, 6, 7)
    got = BilinearDeconv(8)(x)
    assert got.shape == (1, 2, 7 * 8, 8 * 8)
    want = F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)
    inner = slice(4, -4)
    torch.testing.assert_close(
        got[..., 4:-4, 4:-4][..., inner, inner], want[..., inner, inner], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_deconvolutions_are_neither_trained_nor_saved(name: str) -> None:
    model = create_model(name, **SMALL)
    names = {*dict(model.named_parameters()), *model.state_dict()}
    assert not [key for key in names if "upscore" in key]
    assert [key for key, _ in model.named_buffers()] == ["upscore2.kernel", "upscore.kernel"]


@pytest.mark.parametrize("name", NAMES)
def test_scores_cover_every_pixel_at_any_size(name: str) -> None:
    model = support.fill(create_model(name, **SMALL))
    model = model.double()
    for height, width in ((1, 1), (31, 33), (32, 64), (57, 90)):
        with torch.inference_mode():
            scores = model(support.image(1, 3, height, width).double())
        assert scores.shape == (1, 5, height, width)
        # a margin that the deconvolution fades to zero would show as equal rows or columns
        assert (scores.abs().amax(1) > 1e-6).all()


# ---- initial values and stages -----------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_new_scores_are_zero(name: str) -> None:
    model = create_model(name, **SMALL).eval()
    with torch.inference_mode():
        assert not model(support.image(1, 3, 40, 50)).any()
    assert model.fc6.weight.any()


@pytest.mark.parametrize(("coarse", "fine", "added"), [(0, 1, "pool4"), (1, 2, "pool3")])
def test_a_finer_net_starts_where_the_coarser_ended(coarse: int, fine: int, added: str) -> None:
    before = support.fill(create_model(NAMES[coarse], **SMALL))
    after = create_model(NAMES[fine], **SMALL).eval()
    keys = after.load_state_dict(before.state_dict(), strict=False)
    assert keys.missing_keys == [f"score_{added}.weight", f"score_{added}.bias"]
    assert not keys.unexpected_keys
    images = support.image(1, 3, 67, 91)
    with torch.inference_mode():
        start, end = after.forward_heads(images), before.forward_heads(images)
        torch.testing.assert_close(start["logits"], after.upscore2(end["logits"]))
        same = (after(images).argmax(1) == before(images).argmax(1)).float().mean()
    assert same > 0.95, "the same scores, enlarged in two steps instead of one"


def test_the_later_stage_starts_from_the_file_of_the_earlier(tmp_path: Path) -> None:
    before = support.fill(create_model("fcn_32s_vgg16", **SMALL))
    info = WeightsInfo(
        model="fcn_32s_vgg16", settings=settings_of(before), labels=None, preprocessing=IMAGENET
    )
    path = tmp_path / "best.safetensors"
    save_weights(path, before.state_dict(), info)
    after = create_model("fcn_16s_vgg16", pretrained=path, **SMALL)
    assert all(torch.equal(after.state_dict()[k], v) for k, v in before.state_dict().items())
    with pytest.raises(FileError, match=r"fcn_32s_vgg16; FCN starts from fcn_16s_vgg16$"):
        create_model("fcn_8s_vgg16", pretrained=path, **SMALL)
    with pytest.raises(FileError, match="VGG16"):  # at once means from the classifier
        create_model("fcn_8s_vgg16_at_once", pretrained=path, **SMALL)


def test_another_stride_is_refused() -> None:
    with pytest.raises(InputError, match="FCN has stride 32, 16 or 8, got 4"):
        create_model("fcn_8s_vgg16", stride=4)


# ---- pretrained weights ------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path: Path) -> tuple[dict[str, Tensor], Path]:
    """A VGG16 of width 4 as torchvision would publish it."""
    tiny = [c if c == "M" else c // 16 for c in vgg.cfgs["D"]]
    convs = support.fill(vgg.make_layers(tiny)).state_dict()
    tensors = {f"features.{key}": value for key, value in convs.items()}
    for layer, shape in ((0, (256, 32 * 49)), (3, (256, 256)), (6, (10, 256))):
        tensors[f"classifier.{layer}.weight"] = torch.randn(shape)
        tensors[f"classifier.{layer}.bias"] = torch.randn(shape[0])
    torch.save(tensors, tmp_path / "vgg16.pth")
    return tensors, tmp_path / "vgg16.pth"


def test_pretrained_fills_convolutions_and_hidden_layers(
    published: tuple[dict[str, Tensor], Path],
) -> None:
    tensors, path = published
    model = create_model("fcn_8s_vgg16", pretrained=path, **SMALL)
    state = model.state_dict()
    assert torch.equal(state["encoder.convs.conv5_3.weight"], tensors["features.28.weight"])
    assert torch.equal(state["fc6.weight"].flatten(1), tensors["classifier.0.weight"])
    assert torch.equal(state["fc7.weight"].flatten(1), tensors["classifier.3.weight"])
    assert torch.equal(state["fc7.bias"], tensors["classifier.3.bias"])
    assert not state["score_fr.weight"].any()
    encoder = {id(p) for p in model.parameter_groups()["encoder"]}
    head = {k for k, p in model.named_parameters() if id(p) not in encoder}
    scores = ("score_fr", "score_pool4", "score_pool3")
    assert head == {f"{layer}.{leaf}" for layer in scores for leaf in ("weight", "bias")}


def test_pretrained_needs_the_weights_width(published: tuple[dict[str, Tensor], Path]) -> None:
    with pytest.raises(InputError, match="weights have width 4, this trunk has 8"):
        create_model("fcn_32s_vgg16", width=8, pretrained=published[1])


def test_the_papers_nets_differ_in_score_layers_alone() -> None:
    counts = [model_entry(name).num_params for name in NAMES]
    assert counts[1] - counts[0] == 512 * 21 + 21
    assert counts[2] - counts[1] == 256 * 21 + 21
