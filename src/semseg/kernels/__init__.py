"""Exact fast operators over logits and labels; plain torch, for CPU and GPU."""

from semseg.kernels.argmax import upsample_argmax
from semseg.kernels.confusion import confusion_matrix
from semseg.kernels.cross_entropy import upsample_cross_entropy

__all__ = ["confusion_matrix", "upsample_argmax", "upsample_cross_entropy"]
