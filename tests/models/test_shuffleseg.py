"""ShuffleSeg: its decoder by hand, and the first values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.models import create_model, model_entry
from semseg.models.realtime.shuffleseg import SkipNetDecoder, enlarging
from tests.models import support


def test_count_of_the_decoder() -> None:
    with torch.device("meta"):
        model = create_model("shuffleseg")
    k = 20
    scores = (960 * k + k) + (480 * k + k) + (240 * k + k)
    deconvs = 2 * (16 * k * k + k) + (256 * k * k + k)
    assert scores + deconvs + 4 * 2 * k == 149_080
    assert sum(p.numel() for p in model.decoder.parameters()) == 149_080
    assert model_entry("shuffleseg").num_params == 865_602 + 149_080
    # at 19 classes, without the trunk's biases, which its norms make redundant
    with torch.device("meta"):
        model = create_model("shuffleseg", num_classes=19)
    convs = [m for m in model.encoder.modules() if isinstance(m, nn.Conv2d)]
    biases = sum(m.out_channels for m in convs)
    assert sum(p.numel() for p in model.parameters()) - biases == 989_888


def test_scores_meet_at_sixteen_and_eight() -> None:
    model = create_model("shuffleseg", width=12, num_classes=7).eval()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, part in model.decoder.named_children():
        part.register_forward_hook(
            lambda *args, name=name: shapes.update({name: tuple(args[-1].shape[1:])})
        )
    with torch.inference_mode():
        logits = model.forward_heads(support.image(1, 3, 64, 96))["logits"]
    assert shapes == {
        "score": (7, 2, 3),
        "up2": (7, 4, 6),
        "score_middle": (7, 4, 6),
        "up4": (7, 8, 12),
        "score_fine": (7, 8, 12),
        "up8": (7, 64, 96),
    }
    assert logits.shape == (1, 7, 64, 96)


def test_each_feature_reaches_the_logits_by_its_scores() -> None:
    decoder = SkipNetDecoder((2, 3, 4), 1, norms=False).eval()
    features = [torch.zeros(1, c, 8 // 2**i, 8 // 2**i) for i, c in enumerate((2, 3, 4))]
    for part, value in (
        (decoder.score, 1.0),
        (decoder.score_middle, 10),
        (decoder.score_fine, 100),
    ):
        nn.init.constant_(part.bias, value)
    # far from the border, where bilinear enlarging fades, the sum of all biases
    assert decoder(*features)[0, 0, 32, 32].item() == pytest.approx(111)


def middle(x: Tensor) -> Tensor:
    return x[..., 8:-8, 8:-8]


def test_enlargements_start_bilinear() -> None:
    deconv = enlarging(2, 2, 16)
    x = support.image(1, 2, 6, 7)
    want = nn.functional.interpolate(x, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(middle(deconv(x)), middle(want))


def test_norms_follow_all_scores_but_the_deepest() -> None:
    model = create_model("shuffleseg", width=12)
    norms = {n: m for n, m in model.decoder.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms.keys() == {"up2.1", "score_middle.1", "up4.1", "score_fine.1"}
    assert {(m.eps, m.momentum) for m in norms.values()} == {(1e-3, 0.01)}


def test_refusals() -> None:
    with pytest.raises(InputError, match="ShuffleNet v1 takes a width of 12, 24, 36, …, got 20"):
        create_model("shuffleseg", width=20)
    model = create_model("shuffleseg", width=12).train()
    with pytest.raises(InputError, match="ShuffleSeg cannot train on one image of this size"):
        model(support.image(1, 3, 32, 30))
