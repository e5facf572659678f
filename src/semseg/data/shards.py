"""Shards as the ``webdataset`` package has them: .tar files of images beside their masks.

Files of one name up to the first dot are one sample::

    root/classes.yaml
    root/train-000000.tar      000000.jpg 000000.seg.png 000001.jpg 000001.seg.png …
    root/train-000001.tar
    root/val-000000.tar

The image is the one file of a suffix of images, the mask the one called ``.mask.png``, ``.seg.png``
or such; where none is and the image is a JPEG or WebP, a mask may be called ``.png`` alone. Other
files are passed over. Masks hold raw ids.

Nothing is unpacked: the index of each shard is read once, then samples are read by their place, in
any order. So a run resumes exactly, as with any dataset, which a stream of shards cannot do.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import StringConstraints

from semseg.core import archive
from semseg.core.archive import check_folder
from semseg.core.checks import FileError, InputError
from semseg.data.base import DatasetSettings, register_dataset
from semseg.data.folder import labels_of
from semseg.data.folder_files import SPLITS, drawn
from semseg.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from semseg.data.pairs import Pair, PairDataset

_MASK_WORDS = ("mask", "seg", "segm", "segmentation", "label", "labels", "target", "gt")
_IMAGE_WORDS = ("", "image", "img", "input", "rgb")
_LOSSY = (".jpg", ".jpeg", ".webp")

Extension = Annotated[str, StringConstraints(pattern=r"^[^./][^/]*$")]


class ShardSettings(DatasetSettings):
    """What can be said about shards."""

    shards: str = "{split}*.tar"
    """The files, relative to the root: ``{split}`` stands for the split, ``{000..011}`` for numbers
    and ``{a,b}`` for words, ``*`` and ``?`` for what is there. Without ``{split}`` one sample in
    five, by a hash of its name, is val."""

    image: Extension | None = None
    """What images are called behind the first dot, e.g. ``rgb.png``; found if not given."""

    mask: Extension | None = None
    """What masks are called behind the first dot, e.g. ``seg.png``; found if not given."""

    channels: Literal[1, 3] = 3
    """How images are read: 3 for RGB, 1 for grey."""


@register_dataset(
    "webdataset",
    ShardSettings,
    title="Shards of images and masks (WebDataset)",
    classes=None,
    licence="that of the data",
    citation=None,
    source="your own files; semseg.data.shard_writer.write_shards makes them",
    layout="shards such as train-000000.tar and val-000000.tar, and classes.yaml",
    splits=SPLITS,
)
class Shards(PairDataset):
    """One split of a folder of shards.

    Args:
        split: ``"train"`` or ``"val"``.
        root: the folder with the shards and ``classes.yaml``.
        settings: how to read them.

    Raises:
        FileError: a shard is missing or damaged, or a sample lacks its image or mask.
        InputError: no sample is left for the split, a sample is there twice, or ``classes.yaml``
            is missing or wrong.
    """

    def __init__(self, split: str, root: Path, settings: ShardSettings) -> None:
        check_folder(root, "dataset root")
        notes: tuple[str, ...] = ()
        shards = find_shards(root, settings.shards, split)
        found = [sample for shard in shards for sample in _samples(shard, settings)]
        if not found:
            raise InputError(f"{shards[0]} holds no images; its samples are e.g. 1.jpg, 1.seg.png")
        if "{split}" not in settings.shards:
            chosen = set(drawn([root / key for key, _ in found], root, split))
            found = [sample for sample in found if root / sample[0] in chosen]
            notes = (
                f"the shards {settings.shards} are of all splits, so one sample in five, chosen by "
                "a hash of its name, is val",
            )
        pairs = [pair for _, pair in found]
        labels = labels_of(root / "classes.yaml", [mask for _, mask in pairs])
        super().__init__(root, split, pairs, labels, settings.channels, notes)


def find_shards(root: Path, pattern: str, split: str) -> list[Path]:
    """Return the shards that a pattern stands for, in its order.

    Raises:
        FileError: there are none, or one is no plain .tar file.

    Example:
        >>> list(_expanded("t-{08..10}.{a,b}"))
        ['t-08.a', 't-08.b', 't-09.a', 't-09.b', 't-10.a', 't-10.b']
    """
    shards: list[Path] = []
    for name in _expanded(pattern.replace("{split}", split)):
        files = sorted(root.glob(name)) if set(name) & set("*?[") else [root / name]
        shards += [file for file in files if file not in shards]
    if not shards:
        raise FileError(
            f"{root} holds no shards {pattern} for split {split!r}; set shards to their pattern"
        )
    for shard in shards:
        if not shard.is_file():
            raise FileError(f"shard {shard} does not exist; copy it, or correct shards {pattern!r}")
        if shard.suffix.lower() != ".tar":
            archive.is_dir(shard)  # says what is wrong with one that is compressed
            raise FileError(f"shard {shard} is no .tar file; pack it as one")
    return shards


def _expanded(pattern: str) -> Iterator[str]:
    """Yield what the braces of a pattern stand for."""
    before, _, rest = pattern.partition("{")
    inside, closed, after = rest.partition("}")
    if not closed:
        yield pattern
        return
    first, dots, last = inside.partition("..")
    if dots and first.isdigit() and last.isdigit():
        words = [f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1)]
    else:
        words = inside.split(",")
    yield from (f"{before}{word}{end}" for word, end in product(words, _expanded(after)))


def _samples(shard: Path, settings: ShardSettings) -> Iterator[tuple[str, Pair]]:
    """Yield the name of each sample of a shard, with its image and its mask."""
    samples: dict[str, dict[str, str]] = {}
    for name in _names(shard):
        path = PurePosixPath(name)
        stem, _, extension = path.name.partition(".")
        key = (path.parent / stem).as_posix()
        if not stem or not extension or name.startswith("__"):
            continue
        if extension in (held := samples.setdefault(key, {})):
            raise InputError(f"shard {shard} holds {key}.{extension} twice; keep one")
        held[extension] = name
    for key, held in samples.items():
        where = f"sample {key} of shard {shard}"
        masks = [settings.mask] if settings.mask else _masks(held)
        images = [settings.image] if settings.image else _images(held, masks)
        chosen = [_one(held, images, "image", where), _one(held, masks, "mask", where)]
        if chosen == [None, None]:
            continue
        for what, file, among in zip(("image", "mask"), chosen, (images, masks), strict=True):
            if file is None:
                wanted = among[0] if among else ("jpg" if what == "image" else "seg.png")
                raise FileError(f"{where} has no {what}; wanted {key}.{wanted}")
        yield key, (shard / str(chosen[0]), shard / str(chosen[1]))


def _names(shard: Path) -> Iterator[str]:
    """Yield the names of the files of a shard in their order."""
    name = "its first file"
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as opened:
            for info in opened:
                name = info.name
                if info.isfile():
                    yield name.removeprefix("./")
            file.seek(opened.offset)  # tarfile takes a damaged header for the end
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise EOFError
    except (tarfile.TarError, OSError, EOFError) as error:
        raise FileError(f"shard {shard} ends or is damaged at {name}; copy it again") from error


def _masks(held: dict[str, str]) -> list[str]:
    """Return which of the files of a sample may be masks."""
    stems = {extension: extension.rpartition(".") for extension in held}
    lossless = [x for x, (_, _, last) in stems.items() if f".{last}".lower() in MASK_SUFFIXES]
    named = [x for x in lossless if stems[x][0].rpartition(".")[2].lower() in _MASK_WORDS]
    beside = any(f".{extension}".lower() in _LOSSY for extension in held)
    return named or [x for x in lossless if beside and "." not in x]


def _images(held: dict[str, str], masks: list[str]) -> list[str]:
    """Return which of the files of a sample may be images."""
    found = []
    for extension in held:
        word, _, last = extension.lower().rpartition(".")
        suits = word in _IMAGE_WORDS and f".{last}" in IMAGE_SUFFIXES
        if suits and extension not in masks:
            found.append(extension)
    return found


def _one(held: dict[str, str], among: list[str], what: str, where: str) -> str | None:
    found = [held[extension] for extension in among if extension in held]
    if len(found) > 1:
        raise InputError(
            f"{where} has {found[0]} and {found[1]}, either of which may be the {what}; say which "
            f"with {what}, e.g. {what}: {among[0]}"
        )
    return found[0] if found else None
