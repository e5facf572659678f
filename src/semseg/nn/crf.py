"""Mean field as a layer whose kernel weights and label compatibility are trained.

Source: Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du, Huang, Torr. "Conditional Random Fields
as Recurrent Neural Networks." ICCV 2015, arXiv:1502.03240.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semseg.core.checks import InputError
from semseg.kernels.mean_field import Kernel, mean_field_logits, places


class CRFRNN(nn.Module):
    """Rounds of mean field over every pixel of the image.

    A round filters the probabilities with a Gaussian over places and with a bilateral one over
    places and colours, both normalised, mixes the classes of each by a matrix, adds them up,
    charges them by the compatibility of labels and subtracts that from the unary logits. It begins
    as a dense CRF with Potts penalties.

    Args:
        classes: K, at least 2.
        sxy: width of the bilateral filter in pixels.
        srgb: its width in colours.
        weight: of the bilateral filter at first, for each class.
        smooth_sxy: width of the Gaussian filter in pixels.
        smooth_weight: of the Gaussian filter at first.
        iterations: rounds in training.
        test_iterations: rounds in eval mode.

    Shapes:
        - images: ``(N, C, H, W)`` colours in 0 to 255; no gradient flows to them.
        - logits: ``(N, K, H, W)``.
        - output: ``(N, K, H, W)`` logits, in eval mode up to a constant per pixel.

    On the meta device, where there are no colours to look at, the filters leave probabilities as
    they are.

    Example:
        >>> layer = CRFRNN(4)
        >>> layer(255 * torch.rand(1, 3, 8, 9), torch.randn(1, 4, 8, 9)).shape
        torch.Size([1, 4, 8, 9])
    """

    def __init__(
        self,
        classes: int,
        *,
        sxy: float = 160.0,
        srgb: float = 3.0,
        weight: float = 5.0,
        smooth_sxy: float = 3.0,
        smooth_weight: float = 3.0,
        iterations: int = 5,
        test_iterations: int = 10,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise InputError(f"CRFRNN needs at least 2 classes, got {classes}")
        if not min(sxy, srgb, smooth_sxy) > 0:
            raise InputError(
                f"widths of CRFRNN are positive, got sxy={sxy}, srgb={srgb}, "
                f"smooth_sxy={smooth_sxy}"
            )
        if min(iterations, test_iterations) < 1:
            raise InputError(
                f"CRFRNN takes at least 1 round, got {iterations} in training and "
                f"{test_iterations} at test"
            )
        self.sxy, self.srgb, self.smooth_sxy = sxy, srgb, smooth_sxy
        self.iterations, self.test_iterations = iterations, test_iterations
        self.smooth = nn.Parameter(smooth_weight * torch.eye(classes))
        self.bilateral = nn.Parameter(weight * torch.eye(classes))
        self.compatibility = nn.Parameter(-torch.eye(classes))

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return refined logits."""
        if logits.is_meta:
            mixed = (self.compatibility @ (self.smooth + self.bilateral)).to(logits)
            return logits - torch.einsum("kj,njhw->nkhw", mixed, logits.softmax(1))
        with torch.autocast(logits.device.type, enabled=False):
            # half precision cannot tell neighbouring pixels of a large image apart
            wide = logits if logits.dtype == torch.float64 else logits.float()
            compatibility = self.compatibility.to(wide)
            charges = [compatibility @ m.to(wide) for m in (self.smooth, self.bilateral)]
            near = places(wide)
            smooth = Kernel.of(near / self.smooth_sxy, "after")
            rows = [
                self._refine(image.to(wide), unary, near, smooth, charges)
                for image, unary in zip(images.detach(), wide, strict=True)
            ]
            return torch.stack(rows).to(logits.dtype)

    def _refine(
        self, image: Tensor, unary: Tensor, near: Tensor, smooth: Kernel, charges: list[Tensor]
    ) -> Tensor:
        """Return one image's logits ``(K, H, W)``."""
        features = torch.cat([near / self.sxy, image.flatten(1).T / self.srgb], 1)
        kernels = [smooth, Kernel.of(features, "after")]
        rounds = self.iterations if self.training else self.test_iterations
        rows = mean_field_logits(unary.flatten(1).T.contiguous(), kernels, charges, rounds)
        return rows.T.reshape(unary.shape)
