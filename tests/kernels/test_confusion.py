from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semseg.core.checks import InputError
from semseg.kernels import confusion, confusion_matrix, upsample_argmax
from semseg.metrics import ConfusionMatrix
from tests.kernels.support import regions

DTYPES = st.sampled_from([torch.uint8, torch.uint16, torch.int16, torch.int32, torch.int64])


def counted_by_hand(prediction: Tensor, target: Tensor, classes: int, ignore_id: int) -> Tensor:
    counts = torch.zeros(classes, classes, dtype=torch.int64)
    for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
        if t != ignore_id:
            counts[t, p] += 1
    return counts


@settings(deadline=None, max_examples=100)
@given(
    st.integers(1, 12),
    st.sampled_from([255, -1, -100, 65535, 12]),
    DTYPES,
    DTYPES,
    st.integers(0, 200),
    st.sampled_from([1, 7, 64, 10**6]),
    st.sampled_from([1, 200, 10**6]),
    st.sampled_from([-1.0, 2.0]),
    st.integers(0, 999),
)
def test_counts_are_exact(classes, ignore_id, narrow, wide, pixels, piece, table, runs, seed):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, classes, (pixels,), generator=generator).to(narrow)
    target = torch.randint(0, classes, (pixels,), generator=generator)
    fits = torch.iinfo(wide).min <= ignore_id <= torch.iinfo(wide).max
    if fits:
        target[torch.rand(pixels, generator=generator) < 0.3] = ignore_id
    target = target.to(wide)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confusion, "PIECE", piece)
        patch.setattr(confusion, "TABLE", table)
        patch.setattr(confusion, "RUNS", runs)
        counts = confusion_matrix(prediction, target, classes, ignore_id)
    assert counts.dtype == torch.int64
    assert torch.equal(counts, counted_by_hand(prediction, target, classes, ignore_id))


def test_it_counts_as_the_metrics_do() -> None:
    torch.manual_seed(0)
    prediction, target = torch.randint(0, 19, (2, 2, 300, 400))
    target[torch.rand(target.shape) < 0.1] = 255
    matrix = ConfusionMatrix(19)
    matrix.update(prediction, target)
    assert torch.equal(confusion_matrix(prediction, target, 19), matrix.counts)


def test_a_prediction_counts_for_nothing_where_the_target_is_ignored() -> None:
    target = torch.tensor([0, 255, 1])
    for odd in (-3, 200, 2**40):
        counts = confusion_matrix(torch.tensor([0, odd, 0]), target, 2)
        assert counts.tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("classes", [1, 2, 19])
def test_logits_are_counted_by_their_labels(classes: int) -> None:
    logits = regions(classes, 12, 16, images=2)
    known = max(classes, 2)
    target = torch.randint(0, known, (2, 96, 128))
    target[:, :5] = 255
    wanted = confusion_matrix(upsample_argmax(logits, (96, 128)), target, known)
    assert torch.equal(confusion_matrix(logits, target, known), wanted)
    padded = upsample_argmax(logits, (100, 140), True)[:, :96, :128]
    got = confusion_matrix(logits, target, known, size=(100, 140), align_corners=True)
    assert torch.equal(got, confusion_matrix(padded, target, known))


def test_large_counts_do_not_lose_any() -> None:
    ones = torch.ones(1, dtype=torch.uint8).expand(2**24 + 3)
    assert confusion_matrix(ones, ones, 2)[1, 1] == 2**24 + 3


class TestRefusals:
    def refused(self, prediction: Tensor, target: Tensor, *args, **settings) -> str:
        with pytest.raises(InputError) as error:
            confusion_matrix(prediction, target, *args, **settings)
        return str(error.value)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
    def test_ids_outside(self, dtype: torch.dtype) -> None:
        good, bad = torch.tensor([0, 1, 2], dtype=dtype), torch.tensor([0, 7, 2], dtype=dtype)
        assert self.refused(good, bad, 3) == "target holds ids 0 … 7; wanted 0 … 2 or 255"
        assert self.refused(bad, good, 3) == "prediction holds ids 0 … 7; wanted 0 … 2"
        low = torch.tensor([-(2**50), 2, 2])
        assert self.refused(good, low, 3) == (
            f"target holds ids {-(2**50)} … 2; wanted 0 … 2 or 255"
        )

    def test_texts(self) -> None:
        ids = torch.zeros(1, 8, 8, dtype=torch.int64)
        assert self.refused(ids[:, :4], ids, 2) == (
            "prediction is (1, 4, 8), target (1, 8, 8); bring the prediction to the mask's size "
            "first"
        )
        assert self.refused(ids, ids.float(), 2) == (
            "confusion_matrix takes integer targets, got torch.float32"
        )
        assert self.refused(ids, ids, 2, 1) == (
            "confusion_matrix needs num_classes >= 1 and an ignore_id outside its classes, got 2 "
            "and 1"
        )
        assert self.refused(torch.zeros(1, 3, 4, 4), ids, 2) == (
            "confusion_matrix takes logits (N, 2, h, w) for targets (N, H, W), got (1, 3, 4, 4) "
            "for (1, 8, 8)"
        )
        assert self.refused(torch.zeros(1, 2, 4, 4), ids, 2, size=(8, 6)) == (
            "confusion_matrix enlarges to (8, 6), which does not cover the target's (8, 8); give "
            "the size of the padded images"
        )
