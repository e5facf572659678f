"""What is DeepLab v1's own: scores on every eighth pixel, field of view, multi-scale features."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semseg import create_model
from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import IMAGENET
from semseg.models.base import SegmentationModel, settings_of
from semseg.models.dilated import deeplab_v1
from semseg.models.dilated.deeplab_v1 import compare_on_grid
from tests.models import support

SMALL = {"width": 4, "hidden": 32, "num_classes": 5}


def largefov(**settings: object) -> SegmentationModel:
    return support.fill(create_model("deeplab_v1_largefov", **SMALL | settings))


def msc(**settings: object) -> SegmentationModel:
    return create_model("deeplab_v1_msc", **SMALL | settings)


# ---- counts and shapes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "rate", "hidden", "count"),
    [(7, 4, 4096, 134_346_581), (4, 4, 4096, 65_140_565), (4, 8, 4096, 65_140_565)],
)
def test_other_fields_of_view_have_the_papers_counts(
    kernel: int, rate: int, hidden: int, count: int
) -> None:
    settings = {"kernel": kernel, "rate": rate, "hidden": hidden}
    with torch.device("meta"):
        model = create_model("deeplab_v1_largefov", **settings)
    assert sum(p.numel() for p in model.parameters()) == count
    small = largefov(kernel=kernel, rate=rate)
    assert small.forward_heads(support.image(1, 3, 65, 33))["logits"].shape == (1, 5, 9, 5)


def test_pools_have_the_papers_sizes() -> None:
    pools = largefov().encoder(support.image(1, 3, 321, 33))
    assert [tuple(pool.shape[1:]) for pool in pools] == [
        (4, 161, 17),
        (8, 81, 9),
        (16, 41, 5),
        (32, 41, 5),
        (32, 41, 5),
    ]


def test_an_average_pool_precedes_the_wide_layer() -> None:
    model = largefov()
    seen: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    image = support.image(1, 3, 33, 33)
    model(image)
    # zeros beyond the border count, as in Caffe
    want = F.conv2d(model.encoder(image)[-1], torch.ones(32, 1, 3, 3) / 9, padding=1, groups=32)
    torch.testing.assert_close(seen[0], want)


def test_a_kernel_that_cannot_be_centred_is_refused() -> None:
    with pytest.raises(InputError, match="cannot centre a kernel of 4 with rate 3"):
        largefov(kernel=4, rate=3)
    with pytest.raises(InputError, match="needs multi_scale_features=True"):
        largefov(train_features_only=True)


# ---- scores and pixels -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(33, 65), (40, 61), (34, 57), (1, 9)])
def test_scores_stand_on_every_eighth_pixel(size: tuple[int, int]) -> None:
    model = largefov().double()
    images = support.image(1, 3, *size).double()
    with torch.no_grad():
        full, heads = model(images), model.forward_heads(model.pad(images))
    on_grid = full[..., ::8, ::8]
    height, width = on_grid.shape[-2:]
    assert (height, width) == tuple(-(-length // 8) for length in size)
    torch.testing.assert_close(on_grid, heads["logits"][..., :height, :width])


def test_the_loss_takes_every_eighth_label() -> None:
    seen = SimpleNamespace()

    def criterion(logits: Tensor, target: Tensor) -> Tensor:
        seen.logits, seen.target = logits, target
        return logits.sum()

    model = largefov()
    target = torch.arange(2 * 61 * 40).reshape(2, 61, 40)
    logits = model.forward_heads(support.image(2, 3, 61, 40))["logits"]
    model.loss({"logits": logits}, target, criterion)
    assert torch.equal(seen.target, target[:, ::8, ::8])
    assert torch.equal(seen.logits, logits[..., :8, :5]), "the ninth row stands beyond the image"


@pytest.mark.parametrize(("scale", "cells"), [(1.0, 9), (0.75, 7), (0.5, 5)])
def test_smaller_scales_take_the_labels_of_their_pixels(scale: float, cells: int) -> None:
    seen: list[Tensor] = []
    target = torch.arange(65)[None, :, None].expand(1, 65, 65)
    compare_on_grid(
        lambda logits, labels: seen.append(labels) or logits.sum(),
        torch.zeros(1, 2, cells, cells),
        target,
        scale,
    )
    want = {
        1.0: [0, 8, 16, 24, 32, 40, 48, 56, 64],
        0.75: [0, 11, 21, 32, 43, 53, 64],
        0.5: [0, 16, 32, 48, 64],
    }
    assert seen[0][0, :, 0].tolist() == want[scale]


# ---- initial weights -------------------------------------------------------------------------


def test_the_classifier_starts_small() -> None:
    torch.manual_seed(0)
    model = create_model("deeplab_v1_msc", width=16, hidden=1024)
    assert model.head.fc8.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.head.fc8.bias.any()
    for side in model.sides:
        first, second, classifier = side[0], side[3], side[6]
        assert first.weight.std().item() == pytest.approx(0.001, rel=0.1)
        assert second.weight.std().item() == pytest.approx(0.001, rel=0.1)
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert classifier.bias is None, "one bias in all: that of the main network"


# ---- stages ----------------------------------------------------------------------------------


def save(model: SegmentationModel, name: str, path: Path) -> Path:
    info = WeightsInfo(model=name, settings=settings_of(model), labels=None, preprocessing=IMAGENET)
    save_weights(path, model.state_dict(), info)
    return path


def test_msc_starts_from_largefov(tmp_path: Path) -> None:
    first = largefov()
    later = msc()
    later.load_pretrained(save(first, "deeplab_v1_largefov", tmp_path / "best.safetensors"))
    for side in later.sides:
        torch.nn.init.zeros_(side[6].weight)
    images = support.image(1, 3, 40, 40)
    assert torch.equal(later.eval()(images), first(images))
    later.load_pretrained(tmp_path)  # the run folder


def test_a_stage_with_other_settings_is_refused(tmp_path: Path) -> None:
    path = save(largefov(num_classes=3), "deeplab_v1_largefov", tmp_path / "three.safetensors")
    with pytest.raises(FileError, match=r"three\.safetensors.*other settings.*head\.fc8"):
        msc().load_pretrained(path)
    path = save(largefov(), "unet", tmp_path / "unet.safetensors")
    with pytest.raises(FileError, match="holds unet; DeepLabV1 starts from deeplab_v1_largefov"):
        msc().load_pretrained(path)


def test_only_the_features_are_trained_if_asked() -> None:
    model = msc(train_features_only=True).train()
    assert not model.head.dropout.training
    assert model.sides[0][2].training
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"sides"}


# ---- published weights -----------------------------------------------------------------------


def small_vgg16(model: SegmentationModel, hidden: int) -> dict[str, Tensor]:
    """VGG16 with hidden layers of ``hidden`` channels, numbered along output and rows."""
    convs = model.encoder.convs.state_dict()
    weights = {key: torch.full_like(value, 7) for key, value in convs.items()}
    channel = torch.arange(float(hidden))
    fc6 = channel.view(-1, 1, 1, 1) + torch.arange(7).view(1, 1, -1, 1) / 8
    weights["fc6.weight"] = fc6.expand(hidden, model.encoder.channels[-1], 7, 7)
    weights["fc7.weight"] = channel.view(1, -1, 1, 1).expand(hidden, hidden, 1, 1)
    return weights | {"fc6.bias": channel, "fc7.bias": -channel}


def test_vgg16_is_loaded_and_its_hidden_layers_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = largefov()
    weights = small_vgg16(model, hidden=125)
    monkeypatch.setattr(deeplab_v1, "read_vgg16_weights", lambda source: weights)
    model.load_pretrained()
    assert all((value == 7).all() for value in model.encoder.convs.state_dict().values())
    weight = model.head.fc6.weight[:, 0, :, 0]
    assert (weight[0] * 8).tolist() == [0, 3, 6], "of the 7x7 kernel every third row"
    want = [4.0 * i for i in range(32)]  # 32 of 125 channels
    assert weight[:, 0].tolist() == want
    assert model.head.fc6.bias.tolist() == want
    assert model.head.fc7.weight[5, :, 0, 0].tolist() == want
    assert model.head.fc7.bias.tolist() == [-value for value in want]
