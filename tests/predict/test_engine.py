"""Backends: fast, and proved equal to PyTorch before they count."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from semseg.core.checks import InputError, UnknownNameError
from semseg.models import create_model, model_entry
from semseg.predict import Predictor, backends
from semseg.predict.backends import BACKENDS, Compile, Scores, choose
from semseg.predict.decide import decide
from semseg.predict.engine import MANY, SIZES, Engine, equal_share
from tests.models.support import fill, image, images_for
from tests.predict.conftest import LABELS, RULE, network, scene

NEEDS = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino",)}
CPU = torch.device("cpu")


def small(name: str = "fcn_resnet50", classes: int = 4) -> torch.nn.Module:
    model = create_model(name, encoder="resnet18", num_classes=classes)
    return fill(model).eval()


def install(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """Make ``fused`` compute ``change`` of the right logits."""

    def backend(scores: Scores, precision: str) -> Compile:
        return lambda example, streams: lambda images: change(scores(images))

    monkeypatch.setitem(BACKENDS, "fused", backend)


def fail(images: Tensor) -> Tensor:
    raise RuntimeError("no such operator\nin a long text")


# ---- equal -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "fused", "onnxruntime", "openvino", "auto"])
def test_a_backend_computes_what_pytorch_computes(backend: str) -> None:
    for package in NEEDS.get(backend, ()):
        pytest.importorskip(package)
    model = small()
    engine = Engine(model, backend)
    for size in [(64, 96), (96, 64)]:
        images = image(1, 3, *size)
        with torch.inference_mode():
            first, again = engine(images), engine(images)
            want = model.forward_heads(images)["logits"]
        for got in (first, again):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.std().item())
    assert engine.own_stride
    assert len(engine.notes) == (0 if backend == "eager" else 2)
    assert all("standard deviations of PyTorch's" in note for note in engine.notes)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_leaves_the_thread_as_it_was(backend: str) -> None:
    for package in NEEDS[backend]:
        pytest.importorskip(package)
    engine = Engine(small(), backend)
    with torch.inference_mode():
        for _ in range(2):
            engine(image(1, 3, 64, 64))
            assert 1e-310 * 0.5 > 0, "subnormal numbers still count"


def test_what_a_backend_returns_is_not_changed_by_the_next_image() -> None:
    pytest.importorskip("openvino")
    engine = Engine(small(), "openvino")
    with torch.inference_mode():
        engine(image(1, 3, 64, 64))
        first = engine(image(1, 3, 64, 64))
        kept = first.clone()
        engine(-image(1, 3, 64, 64))
    assert torch.equal(first, kept)


SIGNALLED = """
import os, signal, torch
from semseg.models import create_model, model_entry
from semseg.predict.backends import BACKENDS, Scores

model = create_model("fcn_32s_vgg16", num_classes=3, width=4).eval()
make = BACKENDS["openvino"](Scores(model, own_stride=False), "fp32")
with torch.inference_mode():
    first, second = (make(torch.zeros(1, 3, side, side), 1) for side in (32, 64))
del first
del second  # in the order they were made
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_signals_are_handled_after_openvino() -> None:
    """On a processor with AMX, each of its cores gives the thread another stack for signals."""
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_a_network_that_cannot_be_converted_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("openvino")
    entry = model_entry("crf_rnn_fcn_8s")
    model = fill(create_model("crf_rnn_fcn_8s", **{**entry.small, "num_classes": 3})).eval()
    engine = Engine(model, "auto")
    levels = [handler.level for handler in logging.getLogger("torch").handlers]
    with torch.inference_mode():
        engine(model.pad(images_for(model)))
    assert "is not possible" in engine.notes[0]
    assert "\n" not in engine.notes[0]
    assert capfd.readouterr() == ("", "")  # PyTorch would show the whole graph
    assert levels == [handler.level for handler in logging.getLogger("torch").handlers]


def test_a_network_that_enlarges_by_itself_gives_scores_of_full_size() -> None:
    model = fill(create_model("fcn_32s_vgg16", num_classes=3, width=4)).eval()
    engine = Engine(model, "fused")
    assert not engine.own_stride
    images = image(1, 3, 50, 70)
    with torch.inference_mode():
        got = decide(model, images, compute=engine).ids
        assert torch.equal(got, decide(model, images).ids)
        assert engine(images).shape == (1, 3, 50, 70)


@pytest.mark.parametrize("backend", ["fused", "auto"])
def test_masks_of_a_predictor_are_the_same(backend: str) -> None:
    plain = Predictor(network(), "cpu", labels=LABELS, preprocessing=RULE)
    fast = Predictor(network(), "cpu", labels=LABELS, preprocessing=RULE, backend=backend)
    for seed in range(2):
        want = plain(scene(40, 50, seed), confidence=True)
        got = fast(scene(40, 50, seed), confidence=True)
        assert (got.mask != want.mask).mean() < 1e-3
        np.testing.assert_allclose(got.confidence, want.confidence, atol=1e-4)
    assert plain.notes == []
    assert len(fast.notes) == 1


def test_scores_of_a_predictor_are_logits_at_the_size_of_the_images() -> None:
    model = small()
    images = image(1, 3, 45, 70)
    for backend in ("eager", "fused"):
        predictor = Predictor(model, "cpu", labels=LABELS, preprocessing=RULE, backend=backend)
        with torch.inference_mode():
            torch.testing.assert_close(
                predictor.scores(images), model(images), rtol=1e-4, atol=1e-3
            )


# ---- not equal ---------------------------------------------------------------------------------


def test_a_backend_that_is_wrong_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda logits: logits * 1.01)
    engine = Engine(small(), "fused")
    images = image(1, 3, 64, 64)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(engine(images), engine.scores(images))
    (note,) = engine.notes
    assert note.endswith("standard deviations of PyTorch's, so not taken")


def test_auto_takes_bf16_only_where_the_labels_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    install(monkeypatch, lambda logits: -logits)
    engine = Engine(small(), "auto", "auto")
    images = image(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(engine(images), engine.scores(images))
    first, second = engine.notes
    assert first.startswith("fused bf16 at 64 x 64: ")
    assert first.endswith(" % of the labels are those of fp32, so not taken")
    assert second.startswith("fused fp32 at 64 x 64: logits within ")

    install(monkeypatch, lambda logits: logits * 1.01)  # other scores, and the same labels
    engine = Engine(small(), "auto", "auto")
    with torch.inference_mode():
        assert torch.equal(engine(images), engine.scores(images) * 1.01)
    assert engine.notes == ["fused bf16 at 64 x 64: 100.00 % of the labels are those of fp32"]


def test_bf16_is_taken_and_measured_where_it_is_asked_for() -> None:
    model = small()
    engine = Engine(model, "fused", "bf16")
    images = image(1, 3, 64, 64)
    with torch.inference_mode():
        logits, wanted = engine(images), engine.scores(images)
    assert logits.dtype == torch.float32
    apart = (logits - wanted).abs().max() / wanted.std()
    assert 1e-4 < apart < 0.2
    share = equal_share(model, wanted, logits, images)
    assert engine.notes == [
        f"fused bf16 at 64 x 64: {100 * share:.2f} % of the labels are those of fp32"
    ]


def test_auto_goes_on_where_a_backend_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    install(monkeypatch, fail)
    images = image(1, 3, 64, 64)
    engine = Engine(small(), "auto")
    with torch.inference_mode():
        assert torch.equal(engine(images), engine.scores(images))
    assert engine.notes == ["fused fp32 at 64 x 64 is not possible: no such operator"]
    message = (
        "fused fp32 at 64 x 64 cannot compute FCNResNet: no such operator; "
        "take backend='auto' or 'eager'"
    )
    with torch.inference_mode(), pytest.raises(InputError) as error:
        Engine(small(), "fused")(images)
    assert str(error.value) == message


def test_many_sizes_are_not_all_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda logits: logits * 1.0)
    engine = Engine(small(), "fused")
    with torch.inference_mode():
        for i in range(SIZES + 3):
            engine(image(1, 3, 32, 32 + 32 * i))
    assert len(engine.notes) == SIZES + 1
    assert engine.notes[-1] == "PyTorch computes images of other sizes than these 8"


def test_auto_converts_only_for_sizes_that_come_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    install(monkeypatch, lambda logits: logits * 1.0)
    predictor = Predictor(network(), "cpu", labels=LABELS, preprocessing=RULE, backend="auto")
    predictor.expect([(33, 40)] * (MANY - 1) + [(40, 50)] * MANY + [(90, 90)])
    for height, width in [(33, 40), (90, 90), (40, 50), (48, 64)]:
        predictor(scene(height, width))
    # both of the last two are padded to 48 x 64
    assert [note.split(":")[0] for note in predictor.notes] == ["fused fp32 at 48 x 64"]


# ---- which -------------------------------------------------------------------------------------


def test_auto_is_the_fastest_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    assert choose("auto", CPU) == ("openvino", "fused")
    assert choose("auto", torch.device("cuda")) == ("fused",)
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert choose("auto", CPU) == ("fused",)
    assert choose("compile", CPU) == ("compile",)


@pytest.mark.parametrize(
    ("backend", "precision", "kind", "message"),
    [
        (
            "openvinno",
            "fp32",
            UnknownNameError,
            "unknown backend 'openvinno'; did you mean 'openvino'?",
        ),
        (
            "eager",
            "fp8",
            UnknownNameError,
            "unknown precision 'fp8'; known: 'auto', 'bf16', 'fp16', 'fp32'",
        ),
        (
            "openvino",
            "fp32",
            InputError,
            "backend openvino needs openvino, which is not installed; pip install 'semseg[fast]'",
        ),
        (
            "onnxruntime",
            "fp32",
            InputError,
            "backend onnxruntime needs onnxruntime and onnx and onnxscript, which are not "
            "installed; pip install 'semseg[export]'",
        ),
    ],
)
def test_what_cannot_be_had(
    backend: str,
    precision: str,
    kind: type[Exception],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(kind) as error:
        Engine(small(), backend, precision)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("backend", "precision", "message"),
    [
        ("openvino", "fp16", "openvino computes in fp32 or bf16 on a CPU, got fp16"),
        ("onnxruntime", "bf16", "onnxruntime computes in fp32 here, got bf16; take openvino"),
    ],
)
def test_precisions_that_a_backend_lacks(
    backend: str, precision: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: object())
    with pytest.raises(InputError) as error:
        Engine(small(), backend, precision)
    assert str(error.value) == message


def test_a_backend_of_the_cpu_is_refused_elsewhere() -> None:
    with pytest.raises(InputError) as error:
        choose("openvino", torch.device("cuda"))
    assert str(error.value) == ("backend openvino runs on the CPU, not on cuda; give device='cpu'")
