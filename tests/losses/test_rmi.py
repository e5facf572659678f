"""Region mutual information: what it sees that single pixels do not, and where it has no room."""

from __future__ import annotations

import pytest
import torch

from semseg.core.checks import InputError
from semseg.losses import rmi


def test_it_sees_whether_wrong_pixels_hang_together() -> None:
    y, x = torch.arange(24)[:, None], torch.arange(24)
    target = ((y // 6 + x // 6) % 2)[None]
    right = (6.0 * target - 3)[:, None]
    scattered, together = right.clone(), right.clone()
    scattered[..., ::4, ::4] *= -1
    together[..., :6, :6] *= -1
    only_regions = {"cross_entropy_share": 0.0, "stride": 1}
    values = [rmi(z, target, **only_regions).item() for z in (right, scattered, together)]
    assert values[0] < min(values[1:])
    assert values[1] != pytest.approx(values[2], rel=0.05)


def test_share_mixes_the_two_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 16, 16, generator=generator)
    target = torch.randint(3, (2, 16, 16), generator=generator)
    parts = [rmi(logits, target, cross_entropy_share=s) for s in (0.0, 0.3, 1.0)]
    torch.testing.assert_close(parts[1], 0.7 * parts[0] + 0.3 * parts[2])


def test_small_images_are_refused() -> None:
    logits, target = torch.zeros(1, 2, 32, 4), torch.zeros(1, 32, 4).long()
    message = "rmi has no region of 3 x 3 in maps of 9 x 2, the images' size over 4; make radius"
    with pytest.raises(InputError, match=message):
        rmi(logits, target)
