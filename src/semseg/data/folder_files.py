"""Which images and masks of a folder belong to a split."""

from __future__ import annotations

import hashlib
from pathlib import Path

from semseg.core import archive
from semseg.core.archive import check_folder
from semseg.core.checks import FileError, InputError
from semseg.data.images import IMAGE_SUFFIXES, MASK_SUFFIXES
from semseg.data.pairs import Pair

SPLITS = ("train", "val")
_VAL_SHARE = 0.2


def is_drawn(root: Path) -> bool:
    """Tell whether neither folders nor lists divide the images of ``root``."""
    return not _divided(root / "images", root / "masks") and not _has_lists(root)


def masked_images(root: Path, split: str) -> list[Pair]:
    """Return the images of a split with their mask files.

    Raises:
        FileError: a folder is missing, or an image has no mask or a mask no image.
        InputError: no image is left.
    """
    images = check_folder(root / "images", "image folder")
    masks = check_folder(root / "masks", "mask folder")
    if is_drawn(root):
        pairs = pair(images, masks)
        chosen = set(drawn([image for image, _ in pairs], images, split))
        return [one for one in pairs if one[0] in chosen]
    if _divided(images, masks):
        check_folder(images / split, f"image folder of split {split!r}")
        check_folder(masks / split, f"mask folder of split {split!r}")
        return pair(images / split, masks / split)
    return listed(root / f"{split}.txt", images, masks)


def images_alone(root: Path, split: str) -> tuple[list[Path], Path]:
    """Return the images of a split whose labels are no masks, and the folder that holds them.

    Raises:
        FileError: a folder is missing.
        InputError: no image is left.
    """
    images = check_folder(root / "images", "image folder")
    divided = _divided(images)
    folder = check_folder(images / split, f"image folder of split {split!r}") if divided else images
    if not divided and _has_lists(root):
        # a line may name a second file, which is passed over
        return [image for image, _ in listed(root / f"{split}.txt", images, None)], images
    files = list(by_stem(folder, IMAGE_SUFFIXES).values())
    if not files:
        raise InputError(f"{folder} holds no images; put {', '.join(IMAGE_SUFFIXES)} files there")
    return files if divided else drawn(files, images, split), folder


def _divided(*folders: Path) -> bool:
    return any(archive.is_dir(folder / name) for folder in folders for name in SPLITS)


def _has_lists(root: Path) -> bool:
    return any(archive.is_file(root / f"{name}.txt") for name in SPLITS)


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return the files below a folder by their relative path without suffix."""
    found: dict[str, Path] = {}
    for file in archive.files_below(folder):
        relative = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or file.suffix.lower() not in suffixes:
            continue
        stem = relative.with_suffix("").as_posix()
        if stem in found:
            raise FileError(f"{found[stem]} and {file} have one name; keep one or rename one")
        found[stem] = file
    return found


def pair(images: Path, masks: Path) -> list[Pair]:
    """Pair all files of two folders."""
    image_files, mask_files = by_stem(images, IMAGE_SUFFIXES), by_stem(masks, MASK_SUFFIXES)
    if not image_files:
        raise InputError(f"{images} holds no images; put {', '.join(IMAGE_SUFFIXES)} files there")
    if missing := sorted(image_files.keys() - mask_files.keys()):
        raise FileError(
            f"{image_files[missing[0]]} has no mask{_more(missing)}; wanted "
            f"{masks / missing[0]} with one of {', '.join(MASK_SUFFIXES)}"
        )
    if missing := sorted(mask_files.keys() - image_files.keys()):
        raise FileError(
            f"mask {mask_files[missing[0]]} has no image{_more(missing)}; wanted "
            f"{images / missing[0]} with one of {', '.join(IMAGE_SUFFIXES)}"
        )
    return [(image, mask_files[stem]) for stem, image in image_files.items()]


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def listed(path: Path, images: Path, masks: Path | None) -> list[Pair]:
    """Return the pairs that a list file names; of the images alone if ``masks`` is ``None``."""
    if not archive.is_file(path):
        raise FileError(f"{path} does not exist, but the other split has a list; write one")
    image_files = by_stem(images, IMAGE_SUFFIXES)
    mask_files = image_files if masks is None else by_stem(masks, MASK_SUFFIXES)
    lines = (line.strip() for line in archive.read_text(path, "utf-8-sig").splitlines())
    pairs: list[Pair] = []
    for line in lines:
        if not line or line.startswith("#"):
            continue
        image_name = mask_name = line
        # a name may hold a space, so the whole line is tried first
        if _stem(line, images) not in image_files and len(line.split()) == 2:
            image_name, mask_name = line.split()
        image = image_files.get(_stem(image_name, images))
        mask = image if masks is None else mask_files.get(_stem(mask_name, masks))
        if image is None:
            raise FileError(_unknown(path, image_name, images, "image"))
        if mask is None:
            raise FileError(_unknown(path, mask_name, masks or images, "mask"))
        pairs.append((image, mask))
    if not pairs:
        raise InputError(f"{path} names no images; list one name per line")
    return pairs


def _unknown(path: Path, name: str, folder: Path, kind: str) -> str:
    return (
        f"{path} names {name!r}, but {folder} has no such {kind}; correct the line or add the file"
    )


def _stem(name: str, folder: Path) -> str:
    """Return what :func:`by_stem` calls a file that a list names, also by its path from root."""
    relative = Path(name)
    if len(relative.parts) > 1 and relative.parts[0] == folder.name:
        relative = relative.relative_to(folder.name)
    known = relative.suffix.lower() in IMAGE_SUFFIXES + MASK_SUFFIXES
    return (relative.with_suffix("") if known else relative).as_posix()


def drawn(files: list[Path], images: Path, split: str) -> list[Path]:
    """Return a fifth of the images for val, the others for train.

    Each image is placed by its own name, so new images do not move the others; only the one with
    the greatest hash is always val and the one with the least always train.
    """
    if len(files) < 2:
        raise InputError(
            f"{images} holds one image, which cannot be split into train and val; add images or "
            "make the folders train and val yourself"
        )
    shares = {file: share_of(file.relative_to(images)) for file in files}
    least, greatest = min(shares.values()), max(shares.values())
    val = {
        file
        for file, share in shares.items()
        if share == greatest or (share >= 1 - _VAL_SHARE and share != least)
    }
    return [file for file in files if (file in val) == (split == "val")]


def share_of(name: Path) -> float:
    """Return a number in [0, 1) that depends on nothing but the name without suffix."""
    digest = hashlib.sha256(name.with_suffix("").as_posix().encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
