"""The two splits of a run, as its recipe wants them."""

from __future__ import annotations

from semseg.data import SegmentationDataset, build_dataset
from semseg.data.subset import Subset, fold_indices
from semseg.train.config import TrainConfig


def open_split(
    config: TrainConfig, split: str, *, cache: bool | None = None
) -> SegmentationDataset:
    """Open one split of a recipe's dataset.

    With ``data.folds`` the train and val splits are parts of the dataset's train split, with
    ``train.overfit_batches`` both are its first images.

    Args:
        config: the recipe.
        split: ``"train"``, ``"val"`` or another one of the dataset.
        cache: in place of the dataset's own setting.

    Raises:
        SemsegError: see :func:`semseg.data.build_dataset`; fewer samples than folds.
    """
    data, few = config.data, config.train.overfit_batches
    settings = data.settings if cache is None else {**data.settings, "cache": cache}
    ours = split in ("train", "val") and (data.folds is not None or few is not None)
    whole = build_dataset(data.name, "train" if ours else split, data.root, **settings)
    if not ours:
        return whole
    indices = list(range(len(whole)))
    if data.folds is not None:
        train, val = fold_indices(len(whole), data.folds, data.fold)
        indices = val if split == "val" and few is None else train
    if few is not None:
        indices = indices[: few * config.train.batch_size * config.train.accumulate]
    return Subset(whole, indices, split)
