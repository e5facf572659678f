"""Triton's kernels against PyTorch's operators; ``test_triton.py`` runs this in another process.

On a GPU the kernels are compiled; without one Triton interprets them (``TRITON_INTERPRET=1``).
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from semseg.kernels import argmax_triton
from semseg.kernels.permutohedral_torch import Keys, TorchLattice
from semseg.kernels.permutohedral_triton import LENGTH, TritonLattice

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class TestArgmax:
    @pytest.mark.parametrize("align_corners", [False, True])
    @pytest.mark.parametrize("size", [(9, 150), (16, 20), (7, 9), (8, 10), (1, 1)])
    def test_labels_and_confidence(self, size: tuple[int, int], align_corners: bool) -> None:
        torch.manual_seed(0)
        logits = torch.randn(2, 5, 8, 10, device=DEVICE)
        full = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
        labels = torch.full((2, *size), 77, dtype=torch.uint8, device=DEVICE)
        sure = torch.empty(2, *size, device=DEVICE)
        argmax_triton.fill(logits, align_corners, labels, sure)
        first, second = full.topk(2, 1).values.unbind(1)
        assert not ((labels != full.argmax(1)) & (first - second > 1e-5)).any()
        assert torch.allclose(sure, full.softmax(1).amax(1), atol=1e-5)
        alone = torch.full((2, *size), 77, device=DEVICE)
        argmax_triton.fill(logits, align_corners, alone, None)
        assert torch.equal(alone, labels.long())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_and_channels_last(self, dtype: torch.dtype) -> None:
        torch.manual_seed(1)
        logits = torch.randn(2, 7, 5, 6, device=DEVICE).to(dtype)
        logits = logits.contiguous(memory_format=torch.channels_last)
        labels = torch.empty(2, 20, 24, dtype=torch.int64, device=DEVICE)
        argmax_triton.fill(logits, False, labels, None)
        full = F.interpolate(logits.float(), (20, 24), mode="bilinear")
        first, second = full.topk(2, 1).values.unbind(1)
        assert not ((labels != full.argmax(1)) & (first - second > 1e-5)).any()

    def test_first_among_equals(self) -> None:
        labels = torch.empty(1, 4, 4, dtype=torch.int64, device=DEVICE)
        argmax_triton.fill(torch.ones(1, 3, 2, 2, device=DEVICE), False, labels, None)
        assert labels.unique().tolist() == [0]


class TestLattice:
    @pytest.mark.parametrize(
        ("dims", "spread", "channels", "reverse"),
        [(2, 0.4, 1, False), (5, 0.2, 5, False), (5, 0.2, 1, True), (5, 1.5, 3, True)],
    )
    def test_equals_plain_torch(self, dims, spread, channels, reverse) -> None:
        torch.manual_seed(dims)
        features = spread * torch.randn(100, dims, device=DEVICE)
        keys = Keys.of(features)
        lattice, plain = TritonLattice.of(features, keys), TorchLattice.of(features, keys)
        if spread < 1:
            assert int(lattice.pieces.diff().max()) > 1, f"no point has over {LENGTH} pixels"
        values = torch.rand(100, channels, device=DEVICE)
        got = lattice.convolve(values, 0.7, reverse)
        wanted = plain.convolve(values, 0.7, reverse)
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(got, lattice.convolve(values, 0.7, reverse))

    def test_values_in_another_memory_format(self) -> None:
        features = torch.randn(40, 2, device=DEVICE)
        keys, values = Keys.of(features), torch.rand(3, 40, device=DEVICE).T
        got = TritonLattice.of(features, keys).convolve(values, 1.0, False)
        assert torch.allclose(got, TorchLattice.of(features, keys).convolve(values, 1.0, False))
