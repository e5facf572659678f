"""SegNet-Basic and both Bayesian SegNets against the authors' prototxts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semseg.core.checks import InputError
from semseg.models import create_model, model_entry
from semseg.models.encoder_decoder.bayesian_segnet import encode_decode
from tests.models import support


def test_convolutions_of_the_prototxt() -> None:
    with torch.device("meta"):
        model = create_model("segnet_basic").eval()
        images = torch.empty(1, 3, 360, 480)
    seen: list[tuple[int, ...]] = []
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        conv.register_forward_hook(lambda _conv, _args, out: seen.append(tuple(out.shape[1:])))
    model(images)
    sizes = [(360, 480), (180, 240), (90, 120), (45, 60)]
    assert seen == [(64, *s) for s in [*sizes, *reversed(sizes)]] + [(11, 360, 480)]
    assert [conv.kernel_size for conv in convs] == [(7, 7)] * 8 + [(1, 1)]
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 4, "none in the decoder"
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 8


def test_images_are_normalised_across_channels_as_caffe_does() -> None:
    images = (support.image(1, 3, 4, 5) + 1) * 127.5
    want = images / (1 + 1e-4 / 5 * images.square().sum(1, keepdim=True)) ** 0.75
    torch.testing.assert_close(create_model("segnet_basic", width=4).norm(images), want)
    assert (want < 0.8 * images).any(), "constants that matter in 0..255"
    rule = model_entry("segnet_basic").preprocessing
    assert rule(torch.full((3, 1, 1), 255, dtype=torch.uint8)).flatten().tolist() == [255.0] * 3


class Recorder(nn.Module):
    """Stands for dropout and for a stage; notes the size of what it sees."""

    def __init__(self, word: str, log: list[tuple[str, int]]) -> None:
        super().__init__()
        self.word, self.log = word, log

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.log.append((self.word, x.shape[-1]))
        return x


@pytest.mark.parametrize("stages", [4, 5])
def test_dropout_is_after_the_deep_pools_and_decoders(stages: int) -> None:
    log: list[tuple[str, int]] = []
    encoder = [Recorder(f"encode{i}", log) for i in range(1, stages + 1)]
    decoder = [Recorder(f"decode{i}", log) for i in range(stages, 0, -1)]
    encode_decode(support.image(1, 1, 32, 32), encoder, decoder, Recorder("drop", log))
    want: list[tuple[str, int]] = []
    for i in range(1, stages + 1):
        want.append((f"encode{i}", 64 >> i))
        want += [("drop", 32 >> i)] * (i > 2)
    for i in range(stages, 0, -1):
        want.append((f"decode{i}", 64 >> i))
        want += [("drop", 64 >> i)] * (i > 2)
    assert log == want


@pytest.mark.parametrize("name", ["segnet", "segnet_basic"])
def test_without_dropout_it_is_the_plain_network(name: str) -> None:
    plain = support.fill(create_model(name, width=4))
    bayesian = create_model(f"bayesian_{name}", width=4).eval()
    bayesian.load_state_dict(plain.state_dict())
    images = support.image(1, 3, 45, 60)
    with torch.no_grad():
        assert torch.equal(bayesian(images), plain(images))
        bayesian.dropout.train()
        assert not torch.equal(bayesian(images), bayesian(images))


@pytest.mark.parametrize("name", ["bayesian_segnet", "bayesian_segnet_basic"])
def test_dropout_rate(name: str) -> None:
    assert create_model(name, width=4).dropout.p == 0.5
    with pytest.raises(InputError, match=r"dropout between 0 and 1, got 0\.0; use segnet"):
        create_model(name, dropout=0.0)


@pytest.mark.parametrize(
    ("name", "owner", "side"),
    [
        ("segnet_basic", "SegNetBasic", 8),
        ("bayesian_segnet_basic", "BayesianSegNetBasic", 8),
        ("bayesian_segnet", "BayesianSegNet", 16),
    ],
)
def test_training_on_one_pixel_is_refused(name: str, owner: str, side: int) -> None:
    model = create_model(name, width=4).train()
    with pytest.raises(InputError, match=f"{owner} cannot train on one image of this size"):
        model(support.image(1, 3, side, side))
    assert model(support.image(1, 3, side, side + 1)).shape[-2:] == (side, side + 1)
