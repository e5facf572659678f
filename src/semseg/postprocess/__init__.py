"""What is done to predictions after the network."""

from semseg.postprocess.dense_crf import DenseCRF

__all__ = ["DenseCRF"]
