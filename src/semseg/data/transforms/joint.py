"""What all transforms of an image with its mask are built on."""

from __future__ import annotations

from typing import Any

from torchvision.transforms import v2


class Joint(v2.Transform):
    """A torchvision transform that is given tensors and nothing else: ``(image, mask)``.

    torchvision looks into nested samples for what it can change, at every step; here there is
    nothing to look for, and the search costs more than to mirror an image.
    """

    def forward(self, *inputs: Any) -> Any:
        """Draw once and change every input by it."""
        params = self.make_params(list(inputs))
        changed = tuple(self.transform(inpt, params) for inpt in inputs)
        return changed if len(changed) > 1 else changed[0]
