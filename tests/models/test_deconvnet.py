"""DeconvNet against the authors' prototxt, and prediction by proposals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import vgg

from semseg.core.checks import InputError
from semseg.models import create_model
from semseg.models.encoder_decoder.deconvnet import proposals
from tests.models import support


def test_transposed_convolutions_of_the_prototxt() -> None:
    with torch.device("meta"):
        model = create_model("deconvnet").eval()
        images = torch.empty(2, 3, 224, 224)
    seen: list[tuple[int, int]] = []
    deconvs = [m for m in model.modules() if isinstance(m, nn.ConvTranspose2d)]
    for deconv in deconvs:
        deconv.register_forward_hook(
            lambda _module, _args, out: seen.append((out.shape[1], out.shape[2]))
        )
    assert model.forward_heads(images)["logits"].shape == (2, 21, 224, 224)
    assert seen == [
        (512, 7),
        *[(512, 14)] * 3,
        *[(512, 28)] * 2,
        (256, 28),
        *[(256, 56)] * 2,
        (128, 56),
        (128, 112),
        (64, 112),
        *[(64, 224)] * 2,
    ]
    assert all(deconv.bias is not None for deconv in deconvs)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert norms == 13 + 2 + len(deconvs), "after every layer but the classifier"
    assert not [m for m in model.modules() if isinstance(m, nn.Dropout)]


def test_initial_values_of_the_prototxt() -> None:
    model = create_model("deconvnet", width=4)
    deconvs = [m.weight.flatten() for m in model.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert torch.cat(deconvs).std().item() == pytest.approx(0.01, rel=0.02)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {round(norm.bias[0].item(), 6) for norm in norms} == {0.001}


class Constant:
    """Gives one score per proposal, in the order asked."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = iter(scores)
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(tuple(images.shape[-2:]))
        return {"logits": torch.full((len(images), 2, 224, 224), float(next(self.scores)))}


def test_each_pixel_takes_the_largest_score_of_the_boxes_that_hold_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = create_model("deconvnet", width=2, num_classes=2).eval()
    stub = Constant([-3.0, 2.0])
    monkeypatch.setattr(model, "forward_heads", stub)
    scores = model.predict_boxes(support.image(1, 3, 8, 9), [(0, 0, 6, 6), (4, 4, 8, 9)])
    want = torch.zeros(8, 9)
    want[:6, :6] = -3
    want[4:, 4:] = 2
    torch.testing.assert_close(scores, want.expand(1, 2, 8, 9))
    assert stub.seen == [(6, 6), (4, 5)]


def test_forward_is_the_maximum_over_its_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("deconvnet", width=2, num_classes=2).eval()
    stub = Constant([0.0, *range(1, 10)])
    monkeypatch.setattr(model, "forward_heads", stub)
    scores = model(support.image(1, 3, 240, 400))
    assert stub.seen == [(240, 400), *[(120, 200)] * 9]
    assert scores[0, 0, 0, 0].item() == pytest.approx(1)
    assert scores[0, 0, -1, -1].item() == pytest.approx(9)
    assert scores.min().item() == pytest.approx(1), "the windows cover the image"


@pytest.mark.parametrize(("height", "width"), [(225, 1), (301, 477), (2048, 1024)])
def test_windows_lie_inside_and_reach_every_border(height: int, width: int) -> None:
    whole, *windows = proposals(height, width)
    assert whole == (0, 0, height, width)
    assert len(windows) == 9
    tops, lefts, bottoms, rights = zip(*windows, strict=True)
    assert (min(tops), min(lefts), max(bottoms), max(rights)) == whole
    assert all(b > t and r > x for t, x, b, r in windows)


def test_a_small_image_is_enlarged_and_its_scores_shrunk() -> None:
    model = support.fill(create_model("deconvnet", width=2, num_classes=3))
    images = support.image(1, 3, 100, 90)
    with torch.no_grad():
        large = F.interpolate(images, (224, 224), mode="bilinear", align_corners=False)
        logits = model.forward_heads(large)["logits"]
        want = F.interpolate(logits, (100, 90), mode="bilinear", antialias=True)
        torch.testing.assert_close(model(images), want, rtol=1e-4, atol=1e-4)


def test_a_box_outside_the_image_is_refused() -> None:
    model = create_model("deconvnet", width=2).eval()
    for box in ((0, 0, 9, 8), (-1, 0, 4, 4), (3, 3, 3, 5)):
        with pytest.raises(InputError, match="is not inside the image of 8 x 8 pixels"):
            model.predict_boxes(support.image(1, 3, 8, 8), [box])


def test_training_takes_two_images() -> None:
    model = create_model("deconvnet", width=2).train()
    with pytest.raises(InputError, match="cannot train on one image: fc6 leaves a single pixel"):
        model.forward_heads(support.image(1, 3, 224, 224))


def test_pretrained_fills_convolutions_and_hidden_layers(tmp_path: Path) -> None:
    tiny = [c if c == "M" else c // 32 for c in vgg.cfgs["D"]]
    convs = support.fill(vgg.make_layers(tiny)).state_dict()
    tensors = {f"features.{key}": value for key, value in convs.items()}
    for layer, shape in ((0, (128, 16 * 49)), (3, (128, 128))):
        tensors[f"classifier.{layer}.weight"] = torch.randn(shape)
        tensors[f"classifier.{layer}.bias"] = torch.randn(shape[0])
    torch.save(tensors, tmp_path / "vgg16.pth")
    model = create_model("deconvnet", width=2, pretrained=tmp_path / "vgg16.pth")
    encoder = [m for m in model.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert torch.equal(encoder[-1].weight, tensors["features.28.weight"])
    assert torch.equal(model.hidden[0].weight.flatten(1), tensors["classifier.0.weight"])
    assert torch.equal(model.hidden[3].weight.flatten(1), tensors["classifier.3.weight"])
    with pytest.raises(InputError, match="weights have width 2, this encoder has 4"):
        create_model("deconvnet", width=4, pretrained=tmp_path / "vgg16.pth")
