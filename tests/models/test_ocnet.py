"""OCNet: attention to all pixels, within regions, and beside dilated convolutions."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.context.ocnet import OCNet, SelfAttention
from tests.models import support

FORMS = ("base", "pyramid", "asp")


def small(form: str, **settings: int) -> OCNet:
    model = create_model(
        f"ocnet_{form}_resnet101", **({"encoder": "test_resnet", "num_classes": 5} | settings)
    )
    assert isinstance(model, OCNet)
    return model


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize(
    ("form", "predicting"), [("base", 52_992_979), ("pyramid", 57_854_419), ("asp", 57_812_307)]
)
def test_counts_of_the_network_that_predicts(form: str, predicting: int) -> None:
    with torch.device("meta"):
        model = create_model(f"ocnet_{form}_resnet101")
    aux = 9 * 1024 * 512 + 512 + 2 * 512 + 513 * 19
    assert (count(model) - count(model.aux), count(model.aux)) == (predicting, aux)
    assert aux == 4_729_875


# ---- attention ---------------------------------------------------------------------------------


def gathered(attention: SelfAttention, x: Tensor) -> Tensor:
    """Attention written out for one image and one region, ``(C, h, w)`` to ``(C, h, w)``."""
    key = attention.key(x[None])[0].flatten(1)
    value = attention.value(x[None])[0].flatten(1)
    share = (key.T @ key / len(key) ** 0.5).softmax(1)
    mixed = (value @ share.T).view(1, -1, *x.shape[-2:])
    return attention.out(mixed)[0]


def test_keys_are_queries_and_values_have_a_width_of_their_own() -> None:
    attention = support.fill(SelfAttention(6, 4, 8)).double()
    x = 4 * support.image(2, 6, 3, 5).double()
    want = torch.stack([gathered(attention, image) for image in x])
    torch.testing.assert_close(attention(x), want)


def test_regions_do_not_see_each_other_and_the_last_has_the_rest() -> None:
    attention = support.fill(SelfAttention(6, 4, 4, regions=2)).double()
    x = 4 * support.image(1, 6, 5, 7).double()
    got = attention(x)[0]
    for rows in (slice(0, 2), slice(2, 5)):
        for columns in (slice(0, 3), slice(3, 7)):
            want = gathered(attention, x[0][:, rows, columns])
            torch.testing.assert_close(got[:, rows, columns], want)


def test_pooled_attention_is_among_maxima() -> None:
    attention = support.fill(SelfAttention(6, 4, 8, pool=2)).double()
    x = support.image(1, 6, 4, 6).double()
    maxima = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))
    got = attention(x)
    assert got.shape == x.shape
    corners = got[..., ::3, ::5]  # corners stand on corners
    torch.testing.assert_close(corners[0], gathered(attention, maxima[0])[..., ::1, ::2])


def test_attention_starts_at_nothing() -> None:
    attention = SelfAttention(6, 4, 8)
    assert not attention.out.weight.any()
    assert not attention.out.bias.any()
    assert not attention(support.image(1, 6, 4, 4)).any()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_starts_its_attention_at_nothing(form: str) -> None:
    parts = [m for m in small(form).modules() if isinstance(m, SelfAttention)]
    assert len(parts) == (4 if form == "pyramid" else 1)
    assert not any(part.out.weight.any() for part in parts)
    shapes = {(p.keys, p.value.out_channels, p.out.out_channels) for p in parts}
    want = {"base": (256, 256, 512), "pyramid": (256, 512, 512), "asp": (128, 256, 256)}
    assert shapes == {want[form]}
    regions = [part.regions for part in parts]
    assert regions == ([1, 2, 3, 6] if form == "pyramid" else [1])
    assert parts[0].pool == (2 if form == "asp" else 1)


def test_a_large_image_needs_no_map_of_pixels_to_pixels() -> None:
    attention = support.fill(SelfAttention(16, 8, 8)).eval()
    with torch.inference_mode():  # 16,641 pixels of a 1024 x 1024 image: a map of 1.1 GB
        assert attention(support.image(1, 16, 129, 129)).isfinite().all()


# ---- forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_scores_stand_at_stride_8_with_one_pixel_more(form: str) -> None:
    model = small(form).eval()
    heads = model.forward_heads(support.image(1, 3, 64, 96))
    assert heads["logits"].shape == heads["aux"].shape == (1, 5, 9, 13)
    assert model.aux_weights == {"aux": 0.4}
    assert model.align_corners


def test_activations_and_dropout_are_the_authors() -> None:
    rates, leaky = {}, {}
    for form in FORMS:
        model = small(form)
        rates[form] = [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)]
        slopes = [m.negative_slope for m in model.modules() if isinstance(m, nn.LeakyReLU)]
        assert set(slopes) == {0.01}
        leaky[form] = isinstance(model.context.pixels[2], nn.LeakyReLU)
        assert isinstance(model.aux[0][2], nn.LeakyReLU) == leaky[form]
    assert rates == {"base": [0.05, 0.05], "pyramid": [0.05, 0.05], "asp": [0.1, 0.1]}
    assert leaky == {"base": True, "pyramid": False, "asp": True}


def test_asp_has_three_dilations_beside_its_attention() -> None:
    context = small("asp").context
    rates = [unit[0].dilation[0] for unit in context.convs]
    assert rates == [1, 12, 24, 36]
    assert [unit[0].kernel_size[0] for unit in context.convs] == [1, 3, 3, 3]
    assert context.join[0][0].in_channels == 5 * 256
    assert context.join[0][0].bias is None


def test_refusals() -> None:
    wanted = "OCNet has the contexts 'base', 'pyramid', 'asp', got 'pyramids'"
    with pytest.raises(InputError, match=re.escape(wanted)):
        create_model("ocnet_base_resnet101", context="pyramids")
    with pytest.raises(InputError, match="'densenet121' cannot have output_stride 8; use 32, or a"):
        create_model("ocnet_base_resnet101", encoder="densenet121")
    wanted = "OCNet cannot train on one image of this size: its deepest features are a single pixel"
    model = small("asp").train()
    with pytest.raises(InputError, match=wanted):
        model(support.image(1, 3, 16, 16))
    assert model(support.image(1, 3, 32, 32)).isfinite().all()
    assert model(support.image(2, 3, 16, 16)).isfinite().all()
    for form in ("base", "pyramid"):
        assert small(form).train()(support.image(1, 3, 16, 16)).isfinite().all()
