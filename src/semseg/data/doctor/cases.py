"""Finding the samples of a dataset, also where it is too damaged to be opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semseg.core import archive
from semseg.core.checks import FileError, SemsegError, SettingError
from semseg.core.labels import LabelMap
from semseg.data import build_dataset, dataset_entry
from semseg.data.base import CachedDataset, SegmentationDataset
from semseg.data.doctor.findings import Finding, count
from semseg.data.doctor.look import Case
from semseg.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from semseg.data.pairs import PairDataset

_SPLITS = ("train", "val")
_LOSSY_MASKS = (".jpg", ".jpeg", ".webp")
"""What people give masks as, though it cannot hold them."""


@dataclass(slots=True)
class Opened:
    """What there is to look at.

    Args:
        datasets: the splits that could be opened.
        cases: all samples, those of splits that could not be opened included.
        labels: the classes, if any could be read.
        channels: of the images.
        found: what opening has shown.
    """

    datasets: dict[str, SegmentationDataset] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    labels: LabelMap | None = None
    channels: int = 3
    found: list[Finding] = field(default_factory=list)


def open_splits(
    name: str, root: Path | None, splits: tuple[str, ...] | None, settings: Mapping[str, Any]
) -> Opened:
    """Open every split that can be, and search a folder by hand where it cannot.

    Raises:
        SemsegError: no such dataset, setting or folder.
    """
    entry = dataset_entry(name)
    entry.check_root(root)
    if root is not None and not root.is_dir():
        raise FileError(f"dataset root {root} is no folder; give the one with {entry.layout}")
    for split in splits or ():
        entry.check_split(split)
    opened = Opened()
    for split in splits or entry.splits:
        try:
            dataset = build_dataset(name, split, root, **{**settings, "cache": False})
        except SettingError:
            raise
        except SemsegError as error:
            if splits is None and split not in _SPLITS:
                continue  # test images are often kept apart
            opened.found.append(Finding("not_opened", "error", f"split {split}: {error}"))
            if name == "folder" and root is not None and (root / "masks").is_dir():
                _by_hand(opened, root, split)
            continue
        opened.datasets[split] = dataset
        opened.labels, opened.channels = dataset.labels, dataset.channels
        opened.cases.extend(cases_of(dataset))
    if name == "folder" and root is not None:
        opened.found.extend(_strays(root, opened.cases))
    return opened


def cases_of(dataset: SegmentationDataset) -> Iterator[Case]:
    """Return the samples of one split in their order."""
    source = dataset.source if isinstance(dataset, CachedDataset) else dataset
    pairs = source.pairs if isinstance(source, PairDataset) and not _apart(source) else None
    plain = pairs is not None and _is_plain(source)
    for index in range(len(source)):
        image, mask = pairs[index] if pairs else (None, None)
        mask = mask if plain else None
        yield Case(source.split, index, source.path(index), image, mask, plain)


def _apart(dataset: PairDataset) -> bool:
    """Whether only the dataset can read its files: in an archive, or bands and not colours."""
    bands = dataset.values is not None or dataset.channels not in (1, 3)
    return bands or any(archive.inside(image) is not None for image, _ in dataset.pairs[:1])


def _is_plain(dataset: SegmentationDataset) -> bool:
    """Whether a dataset reads image and mask files by the common rules and nothing else."""
    if not isinstance(dataset, PairDataset):
        return False
    rules = ("__getitem__", "read_image", "read_ids")
    own = {name for name in rules if getattr(type(dataset), name) is not getattr(PairDataset, name)}
    # a folder reads its masks in its own way only if they are files of a labelling tool
    return not own or (own == {"read_ids"} and getattr(dataset, "annotations", own) is None)


def _by_hand(opened: Opened, root: Path, split: str) -> None:
    """Pair what can be paired of a folder that cannot be opened, and say what cannot."""
    if opened.labels is None:
        with suppress(SemsegError):  # opening has said so
            opened.labels = LabelMap.from_yaml(root / "classes.yaml")
    folders = [root / "images" / split, root / "masks" / split]
    if not any(folder.is_dir() for folder in folders):
        if split != _SPLITS[0] and (root / "images").is_dir():
            return  # one folder for all splits: looked at once
        folders = [root / "images", root / "masks"]
    images = _by_name(folders[0], IMAGE_SUFFIXES)
    masks = _by_name(folders[1], (*MASK_SUFFIXES, *_LOSSY_MASKS))
    lonely = {
        "unpaired_image": [images[n] for n in sorted(images.keys() - masks.keys())],
        "unpaired_mask": [masks[n] for n in sorted(masks.keys() - images.keys())],
    }
    texts = {
        "unpaired_image": "image{} without a mask of that name; add the mask or take it out",
        "unpaired_mask": "mask{} without an image of that name; add the image or take it out",
    }
    for check, files in lonely.items():
        if files:
            text = f"{len(files)} {texts[check].format('s' * (len(files) > 1))}"
            opened.found.append(Finding(check, "error", text, tuple(map(str, files))))
    for name in sorted(images.keys() & masks.keys()):
        image, mask = images[name], masks[name]
        case = Case(split, -1, str(image), image, mask, plain=True)
        opened.cases.append(case)


def _by_name(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in _files(folder):
        if file.suffix.lower() in suffixes:
            found.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(folder).parts)
    )


def _strays(root: Path, cases: list[Case]) -> Iterator[Finding]:
    """Name files that nothing reads, and names that only some file systems tell apart."""
    used = {file for case in cases for file in (case.image, case.mask)}
    strays: list[str] = []
    twins: list[str] = []
    for folder, suffixes in ((root / "images", IMAGE_SUFFIXES), (root / "masks", MASK_SUFFIXES)):
        names: dict[str, Path] = {}
        for file in _files(folder):
            known = file.suffix.lower() in suffixes
            if not known and file not in used and _is_image(file):
                strays.append(str(file))
            if known:
                name = file.relative_to(folder).with_suffix("").as_posix().lower()
                if name in names:
                    twins += [str(names[name]), str(file)]
                names[name] = file
    if twins:
        text = f"{count(len(twins), 'file')} share a name but for the suffix or for capital letters"
        fix = "some systems keep only one of them and none pairs them surely; rename them"
        yield Finding("same_name", "error", f"{text}; {fix}", tuple(dict.fromkeys(twins)))
    if strays:
        text = f"{count(len(strays), 'image file')} of a suffix that is not read"
        fix = f"convert them to one of {', '.join(IMAGE_SUFFIXES)} if meant to be used"
        yield Finding("not_read", "warning", f"{text}; {fix}", tuple(strays))


def _is_image(file: Path) -> bool:
    from semseg.data.doctor.header import read_header

    return read_header(file)[0] is not None
