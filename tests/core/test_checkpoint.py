"""Weights and what they say about themselves, there and back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from semseg.core.checkpoint import FORMAT, WeightsInfo, load_weights, read_info, save_weights
from semseg.core.checks import FileError
from semseg.core.labels import LabelMap
from semseg.core.preprocess import Preprocessing

INFO = WeightsInfo(
    model="unet",
    settings={"width": 8, "kernel": [3, 3], "encoder": None},
    labels=LabelMap.from_names(["sky", "Straße"], ignore={255: "void"}),
    preprocessing=Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
    metrics={"miou": 0.5, "iou": {"sky": None}},
    provenance={"semseg": "0.1.0", "licence": "CC BY 4.0"},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    save_weights(path, {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(7)}, INFO)
    return path


def header(path: Path, changes: dict[str, object], drop: str | None = None) -> None:
    data = json.loads(INFO.to_json()) | changes
    data.pop(drop, None)
    save_file({"a": torch.zeros(1)}, path, {"semseg": json.dumps(data)})


def test_round_trip(path: Path) -> None:
    tensors, info = load_weights(path)
    assert info == INFO
    assert read_info(path) == INFO
    assert tensors["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensors["n"].dtype == torch.int64
    assert tensors["n"].shape == ()


def test_weights_without_a_task(path: Path) -> None:
    trunk = WeightsInfo(model="vgg16", settings={}, labels=None, preprocessing=INFO.preprocessing)
    save_weights(path, {"a": torch.zeros(1)}, trunk)
    assert read_info(path) == trunk


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.bool])
def test_types_are_kept(path: Path, dtype: torch.dtype) -> None:
    save_weights(path, {"a": torch.ones(3).to(dtype)}, INFO)
    assert load_weights(path)[0]["a"].dtype == dtype


def test_what_safetensors_alone_refuses(path: Path) -> None:
    base = torch.arange(12.0, requires_grad=True)
    shared = {"a": base, "b": base, "part": base[2:4], "turned": base.view(3, 4).T}
    save_weights(path, shared, INFO)
    tensors, _ = load_weights(path)
    for key, value in shared.items():
        torch.testing.assert_close(tensors[key], value.detach())
        assert not tensors[key].requires_grad


def test_a_missing_file(tmp_path: Path) -> None:
    for read in (read_info, load_weights):
        with pytest.raises(FileError) as caught:
            read(tmp_path / "x.safetensors")
        assert str(caught.value) == (
            f"weights {tmp_path}/x.safetensors do not exist; "
            "give a .safetensors file or a run folder"
        )


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FileError, match=f"^{path} is not a whole .safetensors file: "):
        load_weights(path)


def test_another_kind_of_file(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(FileError, match=f"^{path} is not a whole .safetensors file: "):
        read_info(path)


def test_a_file_without_header(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(FileError) as caught:
        read_info(path)
    assert str(caught.value) == (
        f"{path} carries no semseg header; create the network yourself and load the tensors "
        "with safetensors.torch.load_file"
    )


def test_a_newer_format(path: Path) -> None:
    header(path, {"format": FORMAT + 1})
    with pytest.raises(FileError) as caught:
        read_info(path)
    assert str(caught.value) == (
        f"{path} was written by a newer semseg (format {FORMAT + 1}, this one reads up to "
        f"{FORMAT}); update semseg"
    )


@pytest.mark.parametrize(
    ("changes", "drop", "reason"),
    [
        ({}, "model", "KeyError: 'model'"),
        ({"format": "one"}, None, "TypeError: '>' not supported between"),
        ({"preprocessing": None}, None, "TypeError: 'NoneType' object is not"),
        ({"preprocessing": {"mean": [0.5], "std": [0]}}, None, "InputError: std must be positive"),
        ({"labels": {"classes": []}}, None, "InputError: label map: needs a list 'classes'"),
    ],
)
def test_a_header_that_cannot_be_read(
    path: Path, changes: dict[str, object], drop: str | None, reason: str
) -> None:
    header(path, changes, drop)
    with pytest.raises(FileError) as caught:
        read_info(path)
    assert str(caught.value).startswith(f"{path} has a header that cannot be read ({reason}")
    assert str(caught.value).endswith("); take another copy of the file")


def test_a_header_that_is_no_json(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path, {"semseg": "{"})
    with pytest.raises(FileError, match=r"cannot be read \(JSONDecodeError: Expecting property"):
        read_info(path)


def run(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    prelude = """
        import os, resource, signal, sys
        from pathlib import Path
        import torch
        import semseg.core.files
        from semseg.core.checkpoint import read_info, save_weights
        path = Path(sys.argv[1])
        weights = {"a": torch.zeros(100_000)}
    """
    script = textwrap.dedent(prelude) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=120
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")
def test_a_write_that_fails_or_is_killed_keeps_the_last_good_weights(path: Path) -> None:
    before = path.read_bytes()
    done = run(
        """
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        try:
            save_weights(path, weights, read_info(path))
        except Exception as error:
            print(type(error).__name__, error)

        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)

        def die(partial):
            os.kill(os.getpid(), signal.SIGKILL)

        semseg.core.files._sync = die  # after the writing, before the rename
        save_weights(path, weights, read_info(path))
        """,
        path,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == (
        f"FileError cannot write {path}: File too large; the version before it is kept; "
        "choose a place that can be written\n"
    )
    assert path.read_bytes() == before
    assert read_info(path) == INFO


def test_a_flipped_bit_in_the_numbers_is_noticed(path: Path) -> None:
    good = path.read_bytes()
    path.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    read_info(path)  # the header is whole
    with pytest.raises(FileError) as error:
        load_weights(path)
    assert str(error.value) == (
        f"{path} is damaged: its numbers do not have the checksum that was written with them; take "
        "another copy of the file"
    )
    path.write_bytes(good)
    load_weights(path)


def test_a_file_without_a_checksum_is_read(path: Path) -> None:
    tensors, info = load_weights(path)
    save_file(tensors, path, {"semseg": info.to_json()})  # as earlier versions wrote it
    assert load_weights(path)[1] == info
