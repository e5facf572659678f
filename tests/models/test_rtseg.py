"""The grid of RTSeg: each decoder's layers by hand, the trunks' parts, and refusals."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from semseg.core.checks import FileError, InputError
from semseg.models import create_model, list_models, model_entry
from semseg.models.realtime.rtseg import DECODERS, GRID, TRUNKS, Cut, deconv3
from tests.models import support

NAMES = [name for name in list_models() if model_entry(name).paper == "arXiv:1803.02758"]
K = 20


def meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return create_model(name)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def conv(cin: int, cout: int, kernel: int, *, norm: bool = False) -> int:
    """Parameters of a convolution with bias, and of its norm."""
    return kernel * kernel * cin * cout + cout + 2 * cout * norm


def separable(cin: int, cout: int) -> int:
    return 10 * cin + 2 * cin + conv(cin, cout, 1, norm=True)


def shapes(model: nn.Module, parts: dict[str, nn.Module]) -> dict[str, tuple[int, ...]]:
    """Return ``(C, h, w)`` of what each part gives for an image of 64 x 96."""
    found: dict[str, tuple[int, ...]] = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda *args, n=name: found.update({n: args[-1].shape[1:]}))
    with torch.inference_mode():
        model.eval().forward_heads(support.image(1, 3, 64, 96))
    return {name: tuple(shape) for name, shape in found.items()}


def test_every_cell_has_a_name() -> None:
    assert len(NAMES) == len(GRID) == len(DECODERS) * len(TRUNKS) == 12
    for name in NAMES:
        config = model_entry(name).config
        assert name.startswith(config.decoder)
        assert name.endswith(f"_{config.trunk}")
    assert {name.partition("_")[2] for name in NAMES} == {
        f"{middle}{trunk}" for trunk in TRUNKS for middle in ("", "rtseg_")
    }


# ---- counts by hand ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trunk", "channels", "norm"),
    [
        ("vgg16", (256, 512, 4096), False),
        ("resnet18", (128, 256, 512), False),
        ("mobilenet", (256, 512, 1024), True),
        ("shufflenet", (240, 480, 960), True),
    ],
)
def test_skipnet_counts(trunk: str, channels: tuple[int, int, int], norm: bool) -> None:
    fine, middle, deep = channels
    want = conv(deep, K, 1) + conv(middle, K, 1, norm=norm) + conv(fine, K, 1, norm=norm)
    want += 2 * conv(K, K, 4, norm=norm) + conv(K, K, 16)
    assert count(meta(f"skipnet_{trunk}").decoder) == want


@pytest.mark.parametrize(
    ("trunk", "widths", "last"),
    [("mobilenet", (1024, 512, 256, 128, 64), 32), ("shufflenet", (960, 480, 240, 24, 24), 24)],
)
def test_unet_counts(trunk: str, widths: tuple[int, ...], last: int) -> None:
    cin, *rest = widths
    want = 0
    for cout in rest:
        want += conv(cin, cout, 1, norm=True) + conv(cout, cout, 4, norm=True)
        want += conv(cout, cout, 1, norm=True)
        cin = cout
    want += conv(cin, cin, 4, norm=True) + conv(cin, last, 1, norm=True) + conv(last, K, 1)
    assert count(meta(f"unet_rtseg_{trunk}").decoder) == want


def test_unet_over_vgg16_counts() -> None:
    want = conv(64, K, 1)
    for cin, cout in ((512, 512), (512, 256), (256, 128), (128, 64), (64, 64)):
        want += conv(cin, cout, 4) + 2 * conv(cout, cout, 3)
    model = meta("unet_rtseg_vgg16")
    assert count(model.decoder) == want
    assert not any(isinstance(m, nn.BatchNorm2d | nn.ReLU | nn.Dropout) for m in model.modules())


def test_unet_over_resnet18_is_linknet() -> None:
    ours, linknet = meta("unet_rtseg_resnet18"), meta("linknet")
    k = conv(32, K, 2) - conv(32, 19, 2)
    assert count(ours.decoder) == count(linknet.decoder) + count(linknet.head) + k


def test_dilation_counts() -> None:
    end = conv(K, K, 16)
    model = meta("dilation_rtseg_vgg16")
    assert count(model.encoder.hidden) == conv(512, 1024, 7) + conv(1024, 1024, 1)
    assert count(model.decoder) == conv(1024, K, 1) + end
    assert count(meta("dilation_rtseg_resnet18").decoder) == conv(512, K, 1) + end
    assert count(meta("dilation_rtseg_shufflenet").decoder) == conv(960, K, 1) + end
    front = conv(256, 512, 3, norm=True) + 5 * separable(512, 512)
    front += conv(512, 1024, 3, norm=True) + separable(1024, 1024)
    decoder = meta("dilation_rtseg_mobilenet").decoder
    assert count(decoder) == front + conv(1024, K, 1, norm=True) + end


# ---- which features, at which stride -----------------------------------------------------------


def test_skipnet_takes_the_first_layer_of_a_stride() -> None:
    model = create_model("skipnet_mobilenet", width=1 / 8)
    places = model.decoder.places
    assert places == (4, 6, -1), "conv_ds_5 and conv_ds_7 of the authors"
    assert model.encoder.strides[3] == 4
    assert model.encoder.strides[5] == 8
    assert len(model.encoder.layers) == 14


def test_unet_starts_at_the_first_layer_of_stride_32() -> None:
    model = create_model("unet_rtseg_mobilenet", width=1 / 8)
    assert model.decoder.places == [12, 11, 5, 3, 1]
    assert len(model.encoder.layers) == 13, "the last one would be without use"


def test_shapes_of_unet_over_shufflenet() -> None:
    model = create_model("unet_rtseg_shufflenet", width=0.5)
    parts = {f"up{i}": up for i, up in enumerate(model.decoder.ups)}
    got = shapes(model, parts | {"last": model.decoder.last})
    assert got == {
        "up0": (240, 4, 6),
        "up1": (120, 8, 12),
        "up2": (12, 16, 24),
        "up3": (12, 32, 48),
        "last": (12, 64, 96),
    }


def test_skips_are_added() -> None:
    for trunk, width in (("vgg16", 1 / 16), ("mobilenet", 1 / 8), ("shufflenet", 1 / 2)):
        model = support.fill(create_model(f"unet_rtseg_{trunk}", width=width))
        met: list[torch.Tensor] = []
        for up, mix in zip(model.decoder.ups, model.decoder.mixes, strict=True):
            up.register_forward_hook(lambda *args: torch.zeros_like(args[-1]))
            mix.register_forward_pre_hook(lambda _, inputs, met=met: met.append(inputs[0]))
        with torch.inference_mode():
            features = model.encoder(support.image(1, 3, 64, 96))
            model.decoder(features)
        for x, place in zip(met, model.decoder.places[1:], strict=True):
            height, width_ = features[place].shape[-2:]
            assert torch.equal(x[..., :height, :width_], features[place])
            assert not x[..., height:, :].any(), "zeros where ShuffleNet is a pixel short"


def test_linknet_adds_three_of_the_four_stages() -> None:
    model = support.fill(create_model("unet_rtseg_resnet18"))
    met: list[torch.Tensor] = []
    for block in model.decoder.blocks:
        block.register_forward_hook(lambda *args: torch.zeros_like(args[-1]))
        block.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    model.decoder.head.register_forward_pre_hook(lambda _, inputs: met.append(inputs[0]))
    with torch.inference_mode():
        features = model.encoder(support.image(1, 3, 64, 96))
        model.decoder(features)
    for x, feature in zip(met, [*reversed(features[1:]), None], strict=True):
        assert torch.equal(x, torch.zeros_like(x) if feature is None else feature)


def test_a_doubling_3x3_drops_its_end() -> None:
    first, *_ = deconv3(1, 1, 2)
    nn.init.ones_(first.weight)
    x = torch.zeros(1, 1, 2, 2)
    x[..., 0, 0] = 1.0
    out = Cut()(first(x))[0, 0]
    assert out.shape == (4, 4)
    assert out[:3, :3].eq(1).all()
    assert out.sum() == 9, "pixel 0 reaches the first three pixels, not one outside"


# ---- dilation ----------------------------------------------------------------------------------


def rates(module: nn.Module) -> list[int]:
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return [m.dilation[0] for m in convs]


def test_rates() -> None:
    vgg = create_model("dilation_rtseg_vgg16", width=1 / 16)
    assert rates(vgg.encoder) == [1] * 10 + [2] * 3 + [4]
    mobile = create_model("dilation_rtseg_mobilenet", width=1 / 8)
    assert rates(mobile.decoder) == [2, 1, 1, 1, 1, 1, 4, 1]
    assert rates(mobile.encoder) == [1] * 6
    assert not any(isinstance(m, nn.ReLU6) for m in mobile.decoder.modules())
    shuffle = create_model("dilation_rtseg_shufflenet", width=1 / 2)
    assert rates(shuffle.encoder) == [1] * 5 + [2] + [1] * 7 + [4] + [1] * 3
    resnet = create_model("dilation_rtseg_resnet18")
    assert rates(resnet.encoder) == [1] * 9 + [1, 2, 2, 2] + [2, 4, 4, 4]


@pytest.mark.parametrize("trunk", TRUNKS)
def test_dilation_has_scores_at_stride_8(trunk: str) -> None:
    entry = model_entry(f"dilation_rtseg_{trunk}")
    model = create_model(entry.name, **entry.small)
    assert model.multiple_of == 8
    got = shapes(model, {"score": model.decoder.score, "up8": model.decoder.up8})
    assert got == {"score": (K, 8, 12), "up8": (K, 64, 96)}


# ---- settings, weights and first values --------------------------------------------------------


def test_vgg16_takes_published_hidden_layers_where_they_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {}
    widths = ((4, 2), (8, 2), (16, 3), (32, 3), (32, 3))
    cin = 3
    for stage, (width, depth) in enumerate(widths, 1):
        for i in range(1, depth + 1):
            weights[f"conv{stage}_{i}.weight"] = torch.full((width, cin, 3, 3), 0.1 * stage + i)
            weights[f"conv{stage}_{i}.bias"] = torch.full((width,), 0.5)
            cin = width
    weights |= {"fc6.weight": torch.full((256, 32, 7, 7), 6.0), "fc6.bias": torch.ones(256)}
    weights |= {"fc7.weight": torch.full((256, 256, 1, 1), 7.0), "fc7.bias": torch.ones(256)}
    monkeypatch.setattr("semseg.models.realtime.rtseg.read_vgg16_weights", lambda _: dict(weights))
    for decoder in ("skipnet", "unet_rtseg", "dilation_rtseg"):
        model = create_model(f"{decoder}_vgg16", width=1 / 16)
        model.load_pretrained()
        assert model.encoder.convs["conv5_3"].weight.unique().tolist() == pytest.approx([3.5])
        hidden = model.encoder.hidden
        assert len(hidden) == (0 if decoder == "unet_rtseg" else 6)
        if decoder == "skipnet":
            assert (hidden[0].weight.mean(), hidden[3].weight.mean()) == (6, 7)
        elif hidden:
            assert hidden[0].weight.std() > 0, "1024 channels: fc6 of 4096 does not fit"


def test_names_of_the_published_trunks() -> None:
    assert meta("skipnet_resnet18").encoder.name == "resnet18.tv_in1k"
    mean = {name: model_entry(name).preprocessing.mean[0] for name in NAMES}
    assert mean["skipnet_vgg16"] == mean["unet_rtseg_resnet18"] == 0.485
    assert mean["dilation_rtseg_mobilenet"] == 0.5
    assert mean["skipnet_shufflenet"] == pytest.approx(72.52 / 255, abs=1e-4)


def test_missing_files_are_named(tmp_path: Path) -> None:
    for name in ("skipnet_vgg16", "unet_rtseg_mobilenet", "dilation_rtseg_shufflenet"):
        model = create_model(name, **model_entry(name).small)
        with pytest.raises(FileError, match=r"gone\.pth do not exist; give a"):
            model.load_pretrained(tmp_path / "gone.pth")


def test_new_layers_start_as_the_authors() -> None:
    model = create_model("unet_rtseg_resnet18")
    score = model.decoder.score.weight  # 2x2: nearest
    assert score[0, 0].tolist() == [[1, 0], [0, 0]]
    assert score.sum() == K
    three = next(m for m in model.decoder.modules() if isinstance(m, nn.ConvTranspose2d))
    tent = torch.tensor([0.25, 0.75, 0.75])
    torch.testing.assert_close(three.weight[5, 5], tent[:, None] * tent)
    mix = create_model("unet_rtseg_vgg16", width=1 / 16).decoder.mixes[0][0]
    bound = (6 / (9 * 64)) ** 0.5
    assert 0.95 * bound < mix.weight.abs().max() <= bound
    assert not mix.bias.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decoder": "fcn"}, "RTSeg has decoder skipnet, unet, dilation; got 'fcn'"),
        ({"trunk": "vgg"}, "RTSeg has trunk vgg16, resnet18, mobilenet, shufflenet; got 'vgg'"),
        ({"trunk": "resnet18", "width": 0.5}, "ResNet-18 in one width only; got 0.5, take 1"),
        ({"width": 0.01}, "RTSeg takes a width above 0, got 0.01"),
        ({"trunk": "shufflenet", "width": 0.4}, "takes a width of 12, 24, 36, …, got 10"),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        create_model("skipnet_mobilenet", **settings)


def test_one_small_image_trains_only_without_norms() -> None:
    image = support.image(1, 3, 32, 32)
    create_model("skipnet_vgg16", width=1 / 16).train()(image)
    with pytest.raises(InputError, match="RTSeg cannot train on one image of this size"):
        create_model("skipnet_mobilenet", width=1 / 8).train()(image)
    create_model("dilation_rtseg_mobilenet", width=1 / 8).train()(image)
