"""What every network keeps when it is saved, loaded and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import semseg
from semseg.core.checkpoint import WeightsInfo, save_weights
from semseg.core.checks import SemsegError
from semseg.core.labels import LabelMap
from semseg.models.base import Entry, settings_of
from tests.models.conftest import Build
from tests.models.kinds import kind_of
from tests.models.support import images_for


def test_a_saved_network_comes_back_the_same(entry: Entry, build: Build, tmp_path: Path) -> None:
    model = build()
    labels = LabelMap.from_dict({"classes": [f"c{i}" for i in range(model.config.num_classes)]})
    info = WeightsInfo(
        model=entry.name,
        settings=settings_of(model),
        labels=labels,
        preprocessing=entry.preprocessing,
    )
    save_weights(tmp_path / "best.safetensors", model.state_dict(), info)
    loaded = semseg.load(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    images = images_for(model)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_pretrained_names_a_file_that_is_missing(build: Build, tmp_path: Path) -> None:
    model = build()
    with pytest.raises(SemsegError, match=r"missing\.pth|no trunk with published weights"):
        model.load_pretrained(tmp_path / "missing.pth")


@pytest.mark.slow
def test_torch_export_computes_the_same(build: Build) -> None:
    model = build()
    images = images_for(model)
    exported = torch.export.export(model, (images,)).module()
    with torch.inference_mode():
        want = model(images)
        torch.testing.assert_close(exported(images), want, rtol=1e-5, atol=1e-5 * want.std().item())


@pytest.mark.slow
def test_onnx_computes_the_same(build: Build, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    model = build()
    images = images_for(model)
    feed = {name: tensor.numpy() for name, tensor in kind_of(model).feed(images).items()}
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (images,), path, dynamo=True, input_names=list(feed))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, feed)
    with torch.inference_mode():
        want = model(images)
    torch.testing.assert_close(
        torch.from_numpy(got), want, rtol=1e-3, atol=1e-3 * want.std().item()
    )
