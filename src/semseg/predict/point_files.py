"""Point clouds from files, and files with a label for each point."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from semseg.core.checks import FileError, InputError, SemsegError, unknown_name
from semseg.core.files import write_atomic
from semseg.predict.points import PointPrediction, PointPredictor

SUFFIXES = (".ply", ".txt", ".xyz", ".npy")
"""Files that are read as clouds."""

_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">"}
_NAMES = ("x", "y", "z", "red", "green", "blue")
_MANIFEST = "manifest.jsonl"

Values = NDArray[np.float64]


Writer = Callable[[IO[bytes], Values, PointPrediction], None]


def read_cloud(file: str | Path) -> Values:
    """Return ``(N, 6)``: x y z in the file's unit and r g b from 0 to 255.

    A ``.ply`` says what its numbers are; a ``.txt`` or ``.xyz`` has six of them in a line, a
    ``.npy`` in a row, and what follows is left out.

    Raises:
        FileError: missing, damaged, or without coordinates and colours.
    """
    file = Path(file)
    if not file.is_file():
        raise FileError(f"cloud {file} does not exist; give a .ply, .txt, .xyz or .npy file")
    try:
        if file.suffix == ".ply":
            return _read_ply(file)
        if file.suffix == ".npy":
            values = np.load(file, allow_pickle=False).astype(np.float64)
        else:
            values = np.loadtxt(file, dtype=np.float64, ndmin=2)
    except FileError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{file} cannot be read: {error}; export it again") from error
    if values.ndim != 2 or values.shape[1] < 6:
        raise FileError(f"{file} has shape {values.shape}; wanted x y z r g b of each point")
    return np.asarray(values[:, :6], dtype=np.float64)


def _read_ply(file: Path) -> Values:
    with file.open("rb") as stream:
        kind, count, fields = _header(file, stream)
        if missing := [name for name in _NAMES if name not in dict(fields)]:
            raise FileError(f"{file} has no vertex property {missing[0]}; wanted {_NAMES}")
        if kind == "ascii":
            rows = np.loadtxt(stream, dtype=np.float64, ndmin=2, max_rows=count)
            columns = [rows[:, [name for name, _ in fields].index(name)] for name in _NAMES]
        else:
            dtype = np.dtype([(name, _ORDER[kind] + form) for name, form in fields])
            table = np.frombuffer(stream.read(count * dtype.itemsize), dtype, count)
            columns = [table[name] for name in _NAMES]
    scale = 255 if dict(fields)["red"][0] == "f" else 1
    return np.column_stack([*columns[:3], *(c.astype(np.float64) * scale for c in columns[3:])])


def _header(file: Path, stream: IO[bytes]) -> tuple[str, int, list[tuple[str, str]]]:
    """Return the format, the number of vertices and their properties."""
    kind, count, inside = "", 0, False
    fields: list[tuple[str, str]] = []
    for line in iter(stream.readline, b""):
        words = line.decode("ascii", "replace").split()
        if words[:1] == ["format"]:
            kind = words[1]
        elif words[:1] == ["element"]:
            if words[1] == "vertex":
                count, inside = int(words[2]), True
            elif not fields:
                raise FileError(f"{file} has {words[1]} before its vertices; export points alone")
            else:
                inside = False
        elif words[:1] == ["property"] and inside:
            if words[1] not in _PLY_TYPES:
                raise FileError(f"{file} has vertices with a list; export points alone")
            fields.append((words[2], _PLY_TYPES[words[1]]))
        elif words == ["end_header"] and (kind == "ascii" or kind in _ORDER):
            return kind, count, fields
    raise FileError(f"{file} is not a PLY file: its header has no format and end; export it again")


def _write_ply(to: IO[bytes], values: Values, prediction: PointPrediction) -> None:
    """Write coordinates, the colour of the class, and ``label``: the class's raw id."""
    colors = np.asarray(prediction.labels.colors)[prediction.ids]
    fields = [*((n, "<f8") for n in _NAMES[:3]), *((n, "u1") for n in _NAMES[3:]), ("label", "<i4")]
    table = np.empty(len(values), np.dtype(fields))
    for i, name in enumerate(_NAMES):
        table[name] = values[:, i] if i < 3 else colors[:, i - 3]
    table["label"] = prediction.labels.decode(prediction.ids)
    kinds = {"<f8": "double", "u1": "uchar", "<i4": "int"}
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(values)}"]
    lines += [f"property {kinds[form]} {name}" for name, form in fields]
    to.write("\n".join([*lines, "end_header", ""]).encode() + table.tobytes())


def _write_npy(to: IO[bytes], values: Values, prediction: PointPrediction) -> None:
    np.save(to, prediction.labels.decode(prediction.ids))


def _write_txt(to: IO[bytes], values: Values, prediction: PointPrediction) -> None:
    np.savetxt(to, prediction.labels.decode(prediction.ids), fmt="%d")


WRITERS: dict[str, Writer] = {
    "ply": _write_ply,
    "npy": _write_npy,
    "txt": _write_txt,
}
"""What :func:`predict_clouds` can write: a cloud in the colours of its classes with their raw ids,
or the raw ids alone, in the order of the points."""


def find_clouds(source: str | Path) -> list[Path]:
    """Return a cloud file, or those of a folder by name.

    Raises:
        FileError: there are none.
    """
    path = Path(source)
    files = [path] if path.is_file() else []
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise FileError(f"{path} holds no clouds; wanted {', '.join(SUFFIXES)} files")
    return files


def predict_clouds(
    predictor: PointPredictor,
    source: str | Path,
    out: str | Path,
    outputs: tuple[str, ...] = ("ply",),
    overwrite: bool = False,
) -> list[dict[str, Any]]:
    """Predict cloud files and write a label for each point, as ``out/<stem>.<kind>``.

    Args:
        predictor: the network.
        source: a file or a folder.
        out: folder to write into.
        outputs: kinds, of :data:`WRITERS`.
        overwrite: replace results of an earlier run.

    Returns:
        For each cloud what ``out/manifest.jsonl`` says of it: path, points, outputs and seconds,
        or an error; a cloud that cannot be read or predicted does not stop the others.

    Raises:
        FileError: the source holds no clouds.
        InputError: ``out`` holds results or the clouds themselves.
        UnknownNameError: a kind of output that does not exist.
    """
    for kind in outputs:
        if kind not in WRITERS:
            raise unknown_name("output", kind, WRITERS)
    out, files = Path(out), find_clouds(source)
    targets = {file: {kind: out / f"{file.stem}.{kind}" for kind in outputs} for file in files}
    written = [path for paths in targets.values() for path in paths.values()]
    if out.resolve() in {file.parent.resolve() for file in files}:
        raise InputError(f"{out} holds the clouds themselves; choose another folder")
    if len(set(written)) < len(written):
        raise InputError(f"{source} holds clouds of one name; rename them")
    if not overwrite and any(path.exists() for path in (out / _MANIFEST, *written)):
        raise InputError(
            f"{out} already holds predictions; choose another folder, or allow overwriting them"
        )
    out.mkdir(parents=True, exist_ok=True)
    records = []
    with (out / _MANIFEST).open("w", encoding="utf-8") as manifest:
        for file, paths in targets.items():
            record = {"cloud": str(file), **_predict_one(predictor, file, paths)}
            manifest.write(json.dumps(record, ensure_ascii=False) + "\n")
            manifest.flush()
            records.append(record)
    return records


def _save(write: Writer, values: Values, prediction: PointPrediction, path: Path) -> None:
    with path.open("wb") as stream:
        write(stream, values, prediction)


def _predict_one(predictor: PointPredictor, file: Path, paths: dict[str, Path]) -> dict[str, Any]:
    try:
        values = read_cloud(file)
        began = time.perf_counter()
        prediction = predictor(values[:, :3], values[:, 3:])
    except SemsegError as error:
        return {"error": str(error) if str(file) in str(error) else f"{file}: {error}"}
    seconds = time.perf_counter() - began
    for kind, path in paths.items():
        write_atomic(path, partial(_save, WRITERS[kind], values, prediction))
    outputs = {kind: str(path) for kind, path in paths.items()}
    return {"points": len(values), "outputs": outputs, "seconds": round(seconds, 4)}
