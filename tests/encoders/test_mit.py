"""MiT: widths and depths, attention to a shrunken map, initial and published weights."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from semseg.core.checks import FileError, InputError
from semseg.encoders import build_encoder
from semseg.encoders.mit import MixMLP, MixTransformer, ReducedAttention
from tests.models import support


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mit_b0", 3_319_392),
        ("mit_b1", 13_151_424),
        ("mit_b2", 24_196_288),
        ("mit_b3", 44_072_128),
        ("mit_b4", 60_842_688),
        ("mit_b5", 81_443_008),
    ],
)
def test_count(name: str, count: int) -> None:
    """The trunks of SegformerForSemanticSegmentation in transformers, of these sizes."""
    with torch.device("meta"):
        encoder = build_encoder(name)
    assert sum(p.numel() for p in encoder.parameters()) == count


def test_features_of_any_size() -> None:
    encoder = MixTransformer(4, "mit_b0").eval()
    with torch.no_grad():
        features = encoder(support.image(2, 4, 64, 96))
        odd = encoder(support.image(1, 4, 67, 91))
    assert [tuple(f.shape) for f in features] == [
        (2, 32, 16, 24),
        (2, 64, 8, 12),
        (2, 160, 4, 6),
        (2, 256, 2, 3),
    ]
    assert [tuple(f.shape[-2:]) for f in odd] == [(17, 23), (9, 12), (5, 6), (3, 3)]
    assert encoder.channels == (32, 64, 160, 256)


def test_keys_come_from_a_shrunken_map() -> None:
    attention = support.fill(ReducedAttention(8, heads=2, reduction=4)).double()
    x = support.image(1, 1, 8 * 12, 8)[0].double()
    small = F.conv2d(
        x.transpose(1, 2).reshape(1, 8, 8, 12), attention.sr.weight, attention.sr.bias, stride=4
    )
    assert small.shape == (1, 8, 2, 3)
    keys = F.layer_norm(
        small.flatten(2).transpose(1, 2), (8,), attention.norm.weight, attention.norm.bias, 1e-5
    )
    query, (key, value) = attention.q(x), attention.kv(keys).chunk(2, dim=-1)
    heads = [
        (query[..., i : i + 4] @ key[..., i : i + 4].transpose(1, 2) / 2).softmax(-1)
        @ value[..., i : i + 4]
        for i in (0, 4)
    ]
    want = attention.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x, (8, 12)), want)


def test_the_mlp_looks_at_neighbours() -> None:
    """It is the only place of a stage besides its stem that knows where a token is."""
    mlp = support.fill(MixMLP(2))
    x = torch.zeros(1, 5 * 6, 2)
    base = mlp(x, (5, 6))
    x[:, 2 * 6 + 3] = 1
    changed = (mlp(x, (5, 6)) - base).abs().sum(-1).reshape(5, 6) > 1e-6
    rows, columns = torch.where(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 3, 2, 4)


def test_stochastic_depth_rises_to_a_tenth() -> None:
    encoder = MixTransformer(3, "mit_b0")
    rates = [block.drop_path.drop_prob for stage in encoder.stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])


def test_initial_weights_are_the_authors() -> None:
    stage = MixTransformer(3, "mit_b1").stages[1]
    block = stage.blocks[0]
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not block.attn.kv.bias.any()
    assert stage.embed.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
    depthwise = math.sqrt(2 / 9)  # nine outgoing weights of each channel
    assert block.mlp.dwconv.weight.std().item() == pytest.approx(depthwise, rel=0.05)
    assert (block.norm1.eps, stage.norm.eps) == (1e-6, 1e-6)
    assert (block.attn.norm.eps, stage.embed_norm.eps) == (1e-5, 1e-5)


def authors_name(key: str) -> str:
    """Return the name that a tensor has in the authors' files."""
    stage, rest = re.match(r"stages\.(\d)\.(.*)", key).groups()
    number = int(stage) + 1
    for ours, theirs in (
        (r"^embed\.", f"patch_embed{number}.proj."),
        (r"^embed_norm\.", f"patch_embed{number}.norm."),
        (r"^blocks\.", f"block{number}."),
        (r"^norm\.", f"norm{number}."),
        (r"mlp\.dwconv\.", "mlp.dwconv.dwconv."),
    ):
        rest = re.sub(ours, theirs, rest)
    return rest


def test_the_authors_file_is_loaded_and_adapted(tmp_path: Path) -> None:
    theirs = support.fill(MixTransformer(3, "mit_b0")).state_dict()
    held = {authors_name(key): tensor.clone() for key, tensor in theirs.items()}
    held |= {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    save_file(held, tmp_path / "mit.safetensors")
    grey = build_encoder("mit_b0", in_channels=1)
    grey.load_pretrained(tmp_path / "mit.safetensors")
    state = grey.state_dict()
    for key, tensor in theirs.items():
        wanted = tensor.sum(dim=1, keepdim=True) if key == "stages.0.embed.weight" else tensor
        torch.testing.assert_close(state[key], wanted)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    encoder = build_encoder("mit_b0")
    state = {authors_name(k): v for k, v in MixTransformer(3, "mit_b1").state_dict().items()}
    save_file(state, tmp_path / "b1.safetensors")
    wrong = (
        r"kv\.bias has shape \(128,\), this mit_b0 has \(64,\); give weights of the same network"
    )
    with pytest.raises(FileError, match=wrong):
        encoder.load_pretrained(tmp_path / "b1.safetensors")
    del state["norm4.weight"]
    save_file(state, tmp_path / "part.safetensors")
    wrong = r"holds another network than mit_b0: 1 tensors missing, 0 too many \(first: stages\.3"
    with pytest.raises(FileError, match=wrong):
        encoder.load_pretrained(tmp_path / "part.safetensors")


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(repository: str, name: str, revision: str | None) -> str:
        asked.append((repository, name, revision))
        raise OSError("no route\nto the host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    wrong = (
        "the published weights smp-hub/mit_b0.imagenet cannot be had: no route; "
        "check the network, or give a local file with pretrained=PATH"
    )
    with pytest.raises(FileError, match=wrong):
        build_encoder("mit_b0").load_pretrained()
    ((repository, name, revision),) = asked
    assert (repository, name) == ("smp-hub/mit_b0.imagenet", "model.safetensors")
    assert len(revision) == 40, "a commit, so that the weights cannot change"


def test_strides_are_fixed() -> None:
    wanted = "encoder 'mit_b2' cannot have output_stride 16; use 32, or a trunk whose strides can"
    with pytest.raises(InputError, match=wanted):
        build_encoder("mit_b2", output_stride=16)
