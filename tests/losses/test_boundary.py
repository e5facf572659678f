"""Boundary and Hausdorff losses: signs, distances and what they leave out."""

from __future__ import annotations

import torch

from semseg.losses import boundary, hausdorff

SQUARE = torch.zeros(1, 9, 9).long()
SQUARE[:, 3:6, 3:6] = 1


def certain(mask: torch.Tensor) -> torch.Tensor:
    return (60.0 * mask - 30)[:, None]


def test_the_true_mask_is_the_lowest_value() -> None:
    best = boundary(certain(SQUARE), SQUARE).item()
    assert best < 0  # the pixel in the middle lies at -1
    torch.testing.assert_close(best, -1 / 81)
    for other in (SQUARE.roll(1, 2), 1 - SQUARE, torch.ones_like(SQUARE)):
        assert boundary(certain(other), SQUARE).item() > best
    assert hausdorff(certain(SQUARE), SQUARE).item() < 1e-20


def test_far_mistakes_cost_more() -> None:
    near, far = SQUARE.clone(), SQUARE.clone()
    near[0, 4, 6] = far[0, 4, 8] = 1
    assert boundary(certain(far), SQUARE) > boundary(certain(near), SQUARE)
    assert hausdorff(certain(far), SQUARE) > hausdorff(certain(near), SQUARE)
    # one wrong pixel, 1 from the true border and 1 from the predicted one
    torch.testing.assert_close(hausdorff(certain(near), SQUARE), torch.tensor(2 / 81))


def test_a_class_without_border_is_silent() -> None:
    full = torch.ones_like(SQUARE)
    logits = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    assert boundary(logits, full).item() == 0
    three = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    three.requires_grad_()
    boundary(three, SQUARE, sigmoid=True).backward()
    assert not three.grad[:, 2].any()


def test_background_can_be_left_out() -> None:
    logits = torch.randn(1, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    foreground = (logits[:, 1] - logits[:, 0])[:, None]
    for loss in (boundary, hausdorff):
        torch.testing.assert_close(loss(logits, SQUARE, background=False), loss(foreground, SQUARE))
