"""Kernels for GPUs: compiled for some, and computed by Triton's interpreter where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from semseg.core.checks import InputError
from semseg.kernels import argmax, permutohedral, upsample_argmax, with_triton
from semseg.kernels.permutohedral import Permutohedral

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

COUNTS = {"count": "i32", "channels": "i32"}
SIZES = {"ROWS": 32, "LANES": 32}
LATTICE: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "add_pieces": (
        {"values": "*fp32", "pixels": "*i32", "shares": "*fp32", "starts": "*i32", "out": "*fp32"},
        {"LENGTH": 32, **SIZES},
    ),
    "add_points": ({"sums": "*fp32", "starts": "*i32", "out": "*fp32"}, SIZES),
    "blur": ({"x": "*fp32", "before": "*i32", "after": "*i32", "out": "*fp32"}, SIZES),
    "read_pixels": (
        {"x": "*fp32", "offsets": "*i32", "weights": "*fp32", "out": "*fp32", "factor": "fp32"},
        {"AXES": 6, **SIZES},
    ),
}


def assembly(kernel: Any, kinds: dict[str, str], constants: dict[str, Any], capability: int) -> str:
    """Compile for a GPU that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    assert set(kinds) | set(constants) == set(kernel.arg_names)
    kinds = {name: kinds.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(kernel, signature=kinds, constexprs=constants)
    target, options = GPUTarget("cuda", capability, 32), {"enable_fp_fusion": True}
    text: str = triton.compile(source, target=target, options=options).asm["ptx"]
    return text


@needs_triton
class TestKernels:
    @pytest.mark.parametrize(
        "device",
        [
            "interpreter",
            pytest.param(
                "gpu",
                marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
            ),
        ],
    )
    def test_results(self, device: str) -> None:
        settings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        if device == "interpreter":
            settings |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        cases = Path(__file__).with_name("triton_cases.py")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", str(cases)]
        ran = subprocess.run(command, capture_output=True, text=True, env=settings)
        assert ran.returncode == 0, ran.stdout[-3000:]
        assert " passed" in ran.stdout

    @pytest.mark.parametrize("capability", [75, 90])
    @pytest.mark.parametrize(
        ("logits", "labels", "sure", "aligned"),
        [("fp32", "i64", True, False), ("bf16", "u8", False, True)],
    )
    def test_argmax_compiles(self, logits, labels, sure, aligned, capability) -> None:
        from semseg.kernels.argmax_triton import enlarge

        kinds = dict.fromkeys(enlarge.arg_names[:12], "i32")
        kinds |= {"logits": f"*{logits}", "labels": f"*{labels}", "sure": "*fp32"}
        kinds |= {"scale_y": "fp32", "scale_x": "fp32"}
        del kinds["stride_x"]
        constants = {"stride_x": 1, "ALIGNED": aligned, "SURE": sure, "BLOCK": 128}
        assert ".entry enlarge" in assembly(enlarge, kinds, constants, capability)
        for name in ("height", "width", "rows", "columns"):  # Triton takes a 1 as a constant
            constants[name] = 1
            del kinds[name]
        assert ".entry enlarge" in assembly(enlarge, kinds, constants, capability)

    @pytest.mark.parametrize("capability", [75, 90])
    @pytest.mark.parametrize("name", LATTICE)
    def test_lattice_compiles(self, name: str, capability: int) -> None:
        from semseg.kernels import permutohedral_triton

        kinds, constants = LATTICE[name]
        kernel = getattr(permutohedral_triton, name)
        assert f".entry {name}" in assembly(kernel, kinds | COUNTS, constants, capability)
        constants = constants | {"channels": 1, "count": 1, "ROWS": 1024, "LANES": 1}
        assert f".entry {name}" in assembly(kernel, kinds, constants, capability)


class TestChoice:
    def test_cpu_has_none(self) -> None:
        assert not with_triton.triton_runs(torch.device("cpu"))

    @needs_triton
    def test_failure_is_told_and_other_operators_are_used(self, monkeypatch) -> None:
        from semseg.kernels import argmax_triton

        def fails(*given: object) -> None:
            raise RuntimeError("no compiler\nat all")

        monkeypatch.setattr(argmax_triton, "fill", fails)
        monkeypatch.setattr(with_triton.torch, "empty", lambda *a, **k: None)
        monkeypatch.setattr(with_triton.torch, "tensor", lambda *a, **k: None)
        said = (
            r"Triton does not work on cuda:3 here \(RuntimeError: no compiler\); PyTorch's "
            "operators are used, which are slower"
        )
        with pytest.warns(UserWarning, match=said):
            assert not with_triton._runs.__wrapped__(3)

    @needs_triton
    @pytest.mark.parametrize("confidence", [False, True])
    def test_argmax_takes_it(self, monkeypatch: pytest.MonkeyPatch, confidence: bool) -> None:
        from semseg.kernels import argmax_triton

        def fill(logits: Any, align_corners: bool, labels: Any, sure: Any) -> None:
            assert align_corners
            assert (sure is not None) == confidence
            labels.fill_(1)
            if confidence:
                sure.fill_(0.5)

        monkeypatch.setattr(argmax, "triton_runs", lambda device: True)
        monkeypatch.setattr(argmax_triton, "fill", fill)
        given = torch.zeros(2, 3, 4, 4)
        got = upsample_argmax(given, (8, 8), align_corners=True, return_confidence=confidence)
        labels = got[0] if confidence else got
        assert labels.shape == (2, 8, 8)
        assert (labels == 1).all()
        # one sigmoid channel and double precision are not for it
        assert (upsample_argmax(given[:, :1], (8, 8)) == 0).all()
        assert (upsample_argmax(given.double(), (8, 8)) == 0).all()

    def test_lattice_takes_it_for_float32_on_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(permutohedral, "triton_runs", lambda device: True)

        def fastest(count: int, dtype: torch.dtype, device: str = "cuda") -> str:
            given: Any = SimpleNamespace(shape=(count, 5), dtype=dtype, device=torch.device(device))
            return permutohedral._fastest(given)

        assert fastest(100, torch.float32) == "triton"
        assert fastest(100, torch.float64) == fastest(2**29, torch.float32) == "torch"
        assert fastest(100, torch.float64, "cpu") == "torch"

    def test_refusals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError) as caught:
            Permutohedral(torch.ones(2, 2), "triton")
        assert str(caught.value) == (
            "triton filters up to 2**31 corners of pixels in float32 on a GPU, got torch.float32 "
            "on cpu; use backend='torch'"
        )
        monkeypatch.setattr(permutohedral, "_fits_triton", lambda features: True)
        with pytest.raises(InputError) as caught:
            Permutohedral(torch.ones(2, 2), "triton")
        assert str(caught.value) == "triton does not work here; use backend='torch'"
