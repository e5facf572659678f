"""Against numbers of pydensecrf itself, recorded on a picture of 7 x 8 pixels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import semseg.postprocess.pydensecrf as dcrf
from semseg.core.checks import InputError

RECORDED = json.loads(Path(__file__).with_name("pydensecrf.json").read_text(encoding="utf-8"))
H, W, K = 7, 8, 3
Y, X = np.mgrid[:H, :W]


def image() -> np.ndarray[Any, Any]:
    channels = [(X * 37 + Y * 11) % 256, (X * X * 5 + Y * 29) % 256, (X * Y * 13 + 7) % 256]
    return np.stack(channels, -1).astype(np.uint8)


def unary() -> np.ndarray[Any, Any]:
    n = np.arange(K)[:, None, None]
    waves = np.sin(0.7 * X + 0.4 * Y + 2.1 * n) + 0.5 * np.cos(1.3 * X * n - 0.8 * Y)
    return waves.astype(np.float32).reshape(K, -1)


def crf(case: dict[str, Any]) -> dcrf.DenseCRF2D:
    names = {
        "none": dcrf.NO_NORMALIZATION,
        "before": dcrf.NORMALIZE_BEFORE,
        "after": dcrf.NORMALIZE_AFTER,
        "symmetric": dcrf.NORMALIZE_SYMMETRIC,
    }
    near, far = (np.array(case[k], np.float32) for k in ("gaussian", "bilateral"))
    norm = names[case["normalization"]]
    model = dcrf.DenseCRF2D(W, H, K)
    model.setUnaryEnergy(unary())
    model.addPairwiseGaussian(sxy=(2, 1.5), compat=near, normalization=norm)
    model.addPairwiseBilateral((4, 3), (40, 50, 60), image(), compat=far, normalization=norm)
    return model


@pytest.mark.parametrize(
    "case", RECORDED["cases"], ids=lambda c: f"{c['normalization']}-{c['kind']}-{c['iterations']}"
)
def test_same_probabilities(case: dict[str, Any]) -> None:
    wanted = np.array(case["probabilities"]).reshape(K, -1)
    got = crf(case).inference(case["iterations"])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6)
    assert (crf(case).map(case["iterations"]) == wanted.argmax(0)).mean() > 0.98


def test_features_of_ones_own() -> None:
    model = dcrf.DenseCRF2D(W, H, K)
    model.setUnaryEnergy(unary())
    model.addPairwiseGaussian(sxy=2, compat=3)
    other = dcrf.DenseCRF(H * W, K)
    other.setUnaryEnergy(unary())
    other.addPairwiseEnergy(np.stack([X, Y]).reshape(2, -1).astype(np.float32) / 2, compat=3)
    np.testing.assert_array_equal(model.inference(4), other.inference(4))


def test_unaries() -> None:
    p = np.abs(np.sin(unary()))
    p /= p.sum(0)
    got = dcrf.unary_from_softmax(p, scale=0.8)
    np.testing.assert_allclose(got.ravel(), RECORDED["softmax"], rtol=0, atol=2e-6)
    labels = dcrf.unary_from_labels((X + 2 * Y) % 4, 3, 0.7)
    np.testing.assert_allclose(labels.ravel()[:40], RECORDED["labels"], rtol=0, atol=2e-6)
    sure = dcrf.unary_from_labels(np.array([0, 2]), 3, 0.5, zero_unsure=False)
    assert sure.argmin(0).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: dcrf.DenseCRF2D(3, 3, 1), "a CRF needs at least 2 labels, got 1"),
        (
            lambda m: m.setUnaryEnergy(unary().T),
            "the unary energy has shape (56, 3), the CRF wants",
        ),
        (lambda m: m.setUnaryEnergy(unary() / 0), "the unary energy holds NaN or infinity; clip"),
        (lambda m: m.addPairwiseGaussian(-1, 3), "sxy is a positive width or several, got -1"),
        (lambda m: m.addPairwiseGaussian(1, np.ones(2)), "compat has shape (2,), the CRF 3 labels"),
        (
            lambda m: m.addPairwiseBilateral(1, 1, image()[1:], 3),
            "the image has shape (6, 8, 3), the CRF wants (7, 8, 3)",
        ),
        (
            lambda m: m.addPairwiseEnergy(np.ones((2, 5)), 3),
            "the features are of 5 pixels, the CRF of 56",
        ),
        (lambda m: dcrf.unary_from_softmax(unary(), 2), "scale is above 0 and at most 1, got 2"),
        (lambda m: dcrf.unary_from_labels(X, 8, 1.0), "gt_prob lies between 0 and 1, got 1.0"),
        (lambda m: dcrf.unary_from_labels(X, 1, 0.5), "energies need at least 2 labels, got 1"),
        (lambda m: dcrf.unary_from_labels(X, 6, 0.5), "labels lie between 0 and 6, got 0 to 7"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        call(dcrf.DenseCRF2D(W, H, K))
