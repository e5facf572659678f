"""SegNet against the authors' prototxt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from semseg.core.checks import FileError, InputError
from semseg.models import create_model
from tests.models import support

# name: output of each convolution of Models/segnet_train.prototxt at 360 x 480; _D is the decoder
LAYERS = {
    "conv1_1": (64, 360, 480),
    "conv1_2": (64, 360, 480),
    "conv2_1": (128, 180, 240),
    "conv2_2": (128, 180, 240),
    "conv3_1": (256, 90, 120),
    "conv3_2": (256, 90, 120),
    "conv3_3": (256, 90, 120),
    "conv4_1": (512, 45, 60),
    "conv4_2": (512, 45, 60),
    "conv4_3": (512, 45, 60),
    "conv5_1": (512, 23, 30),
    "conv5_2": (512, 23, 30),
    "conv5_3": (512, 23, 30),
    "conv5_3_D": (512, 23, 30),
    "conv5_2_D": (512, 23, 30),
    "conv5_1_D": (512, 23, 30),
    "conv4_3_D": (512, 45, 60),
    "conv4_2_D": (512, 45, 60),
    "conv4_1_D": (256, 45, 60),
    "conv3_3_D": (256, 90, 120),
    "conv3_2_D": (256, 90, 120),
    "conv3_1_D": (128, 90, 120),
    "conv2_2_D": (128, 180, 240),
    "conv2_1_D": (64, 180, 240),
    "conv1_2_D": (64, 360, 480),
    "conv1_1_D": (11, 360, 480),
}


def test_convolutions_of_the_prototxt() -> None:
    with torch.device("meta"):
        model = create_model("segnet").eval()
        images = torch.empty(1, 3, 360, 480)
    seen: list[tuple[int, ...]] = []
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        conv.register_forward_hook(lambda _conv, _args, out: seen.append(tuple(out.shape[1:])))
    model(images)
    assert seen == list(LAYERS.values())
    assert all(conv.kernel_size == (3, 3) and conv.bias is not None for conv in convs)
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 25
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 25


def test_convolutions_start_he_normal() -> None:
    conv = create_model("segnet", width=16).encoder.stages[4][0]
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert not conv.bias.any()


def vgg16(width: int) -> dict[str, Tensor]:
    """Weights in torchvision's layout: ``features.N`` counts ReLUs and pools too."""
    convs = {0: 1, 2: 1, 5: 2, 7: 2, 10: 4, 12: 4, 14: 4, 17: 8, 19: 8, 21: 8, 24: 8, 26: 8, 28: 8}
    shapes, cin = {}, 3
    for layer, factor in convs.items():
        cout = width * factor
        shapes |= {f"features.{layer}.weight": (cout, cin, 3, 3), f"features.{layer}.bias": (cout,)}
        cin = cout
    for layer, (rows, columns) in {0: (16, cin * 49), 3: (16, 16)}.items():
        shapes |= {
            f"classifier.{layer}.weight": (rows, columns),
            f"classifier.{layer}.bias": (rows,),
        }
    return {key: torch.rand(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("channels", [3, 1])
def test_published_vgg16_goes_into_the_encoder(tmp_path: Path, channels: int) -> None:
    weights = vgg16(width=4)
    torch.save(weights, tmp_path / "vgg16.pth")
    model = create_model("segnet", width=4, in_channels=channels, pretrained=tmp_path / "vgg16.pth")
    first, *convs = (m for m in model.encoder.modules() if isinstance(m, nn.Conv2d))
    keys = [key.removesuffix(".weight") for key in weights if key.startswith("features")][::2]
    for key, conv in zip(keys[1:], convs, strict=True):
        assert torch.equal(conv.weight, weights[f"{key}.weight"])
        assert torch.equal(conv.bias, weights[f"{key}.bias"])
    # an image of equal channels gives the same response, whatever their number
    grey = support.image(1, 1, 8, 8)
    want = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weights["features.0.weight"])
    got = nn.functional.conv2d(grey.expand(-1, channels, -1, -1), first.weight)
    torch.testing.assert_close(got, want)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save(vgg16(width=4), tmp_path / "vgg16.pth")
    with pytest.raises(
        InputError, match="published VGG16 weights have width 4, this encoder has 8"
    ):
        create_model("segnet", width=8, pretrained=tmp_path / "vgg16.pth")
    torch.save({"features.0.weight": torch.rand(4, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(FileError, match="is not a plain VGG16"):
        create_model("segnet", width=4, pretrained=tmp_path / "other.pth")
