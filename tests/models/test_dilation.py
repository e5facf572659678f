"""What is the dilation networks' own: reflection, no padding, context that starts as identity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semseg import create_model, model_entry
from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import FileError, InputError
from semseg.core.preprocess import IMAGENET
from semseg.models.base import SegmentationModel, settings_of
from semseg.models.dilated import dilation
from semseg.models.dilated.dilation import EIGHT, LARGE, ContextModule, identity_, mirror
from tests.models import support

SMALL = {"width": 2, "num_classes": 5}


def front_end(**settings: object) -> SegmentationModel:
    return support.fill(create_model("dilation_frontend", **SMALL | settings))


# ---- reflection and sizes ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 16), (13, 21), (1, 2), (400, 9)])
def test_mirror_reflects_without_the_border(size: tuple[int, int]) -> None:
    x = support.image(1, 2, *size)
    got = mirror(x, 186, (186, 190))
    want = np.pad(x.numpy(), [(0, 0), (0, 0), (186, 186), (186, 190)], mode="reflect")
    assert np.array_equal(got.numpy(), want)


def test_images_grow_to_multiples_of_eight_by_reflection() -> None:
    x = support.image(1, 3, 13, 16)
    want = np.pad(x.numpy(), [(0, 0), (0, 0), (0, 3), (0, 0)], mode="reflect")
    assert np.array_equal(front_end().pad(x).numpy(), want)


def test_the_front_end_shrinks_by_the_margin() -> None:
    model = front_end()
    seen: dict[str, tuple[int, ...]] = {}
    for name in ("encoder", "fc6", "final"):
        module = model.get_submodule(name)
        module.register_forward_hook(
            lambda _, args, out, name=name: seen.update(
                {name: tuple((out[-1] if isinstance(out, list) else out).shape[1:])}
            )
        )
    model(support.image(1, 3, 24, 37))
    # 24 / 8 + 24 and 40 / 8 + 24, then without the reach of fc6
    assert seen == {"encoder": (16, 27, 29), "fc6": (128, 3, 5), "final": (5, 3, 5)}


def test_a_score_is_the_centre_of_its_eight_pixels() -> None:
    # the pixels that may change score (1, 2) lie symmetrically around 8i + 3.5
    model = front_end().double()
    images = support.image(1, 3, 24, 40).double()
    padded = mirror(images, 186, (186, 186)).requires_grad_()
    x = model.encoder(padded)[-1]
    model.final(model.fc7(model.fc6(x)))[0, :, 1, 2].sum().backward()
    for axis, cell in ((2, 1), (3, 2)):
        touched = padded.grad.abs().sum([i for i in range(4) if i != axis]).nonzero()
        first, last = touched.min().item() - 186, touched.max().item() - 186
        assert last - first < 380
        assert abs((first + last) / 2 - (8 * cell + 3.5)) <= 4, "not off by a cell"


# ---- context -----------------------------------------------------------------------------------


def test_large_and_basic_modules_have_the_papers_layers() -> None:
    large = ContextModule(21, EIGHT, LARGE, pad_once=True)
    convs = [m for m in large if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convs] == [42, 42, 84, 168, 336, 672, 672, 21]
    assert [m.dilation[0] for m in convs] == [1, 1, 2, 4, 8, 16, 1, 1]
    assert [m.padding[0] for m in convs] == [0] * 8
    assert large[0].padding == (33, 33, 33, 33)
    assert sum(p.numel() for p in large.parameters()) == 6_803_139
    basic = ContextModule(21, EIGHT, (1,) * 7, pad_once=False)
    assert sum(p.numel() for p in basic.parameters()) == 28_392
    assert [m.padding[0] for m in basic if isinstance(m, nn.Conv2d)] == [1, 1, 2, 4, 8, 16, 1, 0]


@pytest.mark.parametrize("multiples", [LARGE, (1,) * 7])
@pytest.mark.parametrize("pad_once", [False, True])
def test_context_starts_as_the_identity(multiples: tuple[int, ...], pad_once: bool) -> None:
    module = ContextModule(3, EIGHT, multiples, pad_once)
    for layer in module:
        if isinstance(layer, nn.Conv2d):
            identity_(layer, groups=3, noise=0)
    scores = support.image(2, 3, 9, 11)
    # its ReLUs cut negative scores off
    torch.testing.assert_close(module(scores), scores.relu())


def test_the_noise_is_small_and_off_the_passing_weights() -> None:
    torch.manual_seed(0)
    conv = identity_(nn.Conv2d(42, 84, 3), groups=21)
    centre = conv.weight[:, :, 1, 1]
    passing = centre == 0.25  # 21 classes over 84 maps
    # map b of 84 belongs to class b // 4, map a of 42 to class a // 2
    same = torch.arange(84)[:, None] // 4 == torch.arange(42) // 2
    assert torch.equal(passing, same)
    rest = torch.cat([conv.weight[:, :, 0].flatten(), centre[~same]])
    assert rest.std().item() == pytest.approx(0.0025, rel=0.05)
    assert not conv.bias.any()


def test_front_end_scores_start_small() -> None:
    torch.manual_seed(0)
    final = create_model("dilation8", width=16).final
    assert final.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not final.bias.any()


# ---- stages ------------------------------------------------------------------------------------


def save(model: SegmentationModel, name: str, path: Path) -> Path:
    info = WeightsInfo(model=name, settings=settings_of(model), labels=None, preprocessing=IMAGENET)
    save_weights(path, model.state_dict(), info)
    return path


@pytest.mark.parametrize("name", ["dilation8", "dilation8_camvid", "dilation7", "dilation10"])
def test_the_context_networks_start_from_the_front_end(name: str, tmp_path: Path) -> None:
    first = front_end()
    path = save(first, "dilation_frontend", tmp_path / "first.safetensors")
    later = create_model(name, pretrained=path, **SMALL).eval()
    for layer in later.context:
        if isinstance(layer, nn.Conv2d):
            identity_(layer, groups=5, noise=0)
    images = support.image(1, 3, 16, 16)
    got = later.forward_heads(images)["logits"]
    torch.testing.assert_close(got, first.forward_heads(images)["logits"].relu())
    with pytest.raises(FileError, match="other settings"):
        create_model(name, pretrained=path, **SMALL | {"num_classes": 3})


def test_the_second_stage_trains_the_context_alone() -> None:
    model = create_model("dilation7", freeze_front_end=True, **SMALL).train()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"context"}
    assert not model.dropout.training
    assert create_model("dilation7", **SMALL).train().dropout.training


def test_vgg16_fills_the_front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("dilation8", **SMALL)
    state = model.encoder.convs.state_dict()
    state |= {f"fc6.{k}": v for k, v in model.fc6.state_dict().items()}
    state |= {f"fc7.{k}": v for k, v in model.fc7.state_dict().items()}
    weights = {key: torch.full_like(value, 2) for key, value in state.items()}
    monkeypatch.setattr(dilation, "read_vgg16_weights", lambda source: weights)
    model.load_pretrained()
    filled = {k.rpartition(".")[0] for k, v in model.state_dict().items() if (v == 2).all()}
    assert len(filled) == 15
    assert {"fc6", "fc7", "encoder.convs.conv1_1"} <= filled


# ---- mistakes ----------------------------------------------------------------------------------


def test_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="context is 'none', 'basic' or 'large', got 'big'"):
        create_model("dilation8", context="big")
    with pytest.raises(InputError, match="large context module has 7 dilations, got 3"):
        create_model("dilation8", dilations=(1, 2, 4))
    with pytest.raises(InputError, match="leaves nothing to train"):
        create_model("dilation_frontend", freeze_front_end=True)


def test_the_papers_dilations() -> None:
    assert model_entry("dilation7").config.dilations == (1, 1, 2, 4, 8, 1)
    assert model_entry("dilation10").config.dilations == (1, 1, 2, 4, 8, 16, 32, 64, 1)
