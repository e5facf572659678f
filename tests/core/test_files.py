"""A kill or a full disk never leaves half a file, and the old version stays."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from semseg.core.checks import FileError
from semseg.core.files import recover, sha256, write_atomic, write_text, writing

posix = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run Python code in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "Grüße")
    assert path.read_bytes() == "Grüße".encode()
    write_text(path, "2")
    assert path.read_text() == "2"
    assert names(path.parent) == ["a.txt"]


def test_a_folder_is_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "state"

    def fill(partial: Path, name: str) -> None:
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / name).write_text(name)

    write_atomic(path, lambda partial: fill(partial, "a"))
    write_atomic(path, lambda partial: fill(partial, "b"))
    assert names(path / "deep") == ["b"]
    assert names(tmp_path) == ["state"]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_version(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def stop(partial: Path) -> None:
        partial.write_text("half")
        raise kind("stop")

    with pytest.raises(kind, match="stop"):
        write_atomic(path, stop)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("")
    with pytest.raises(FileError) as caught:
        write_text(tmp_path / "run", "text")
    assert str(caught.value) == (
        f"{tmp_path}/run is a folder; a file would replace it: give a file name"
    )
    assert names(tmp_path / "run") == ["precious"]
    assert names(tmp_path) == ["run"]


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileError, match="; the version before it is kept; choose a place that"):
        write_atomic(tmp_path / "a", Path.mkdir)
    assert (tmp_path / "a").read_text() == "old"


def test_the_old_folder_is_put_back_when_the_new_one_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    write_atomic(path, Path.mkdir)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise PermissionError(1, "Operation not permitted")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(FileError, match=r"state: Operation not permitted; the version before"):
        write_atomic(path, Path.mkdir)
    assert names(tmp_path) == ["state"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(FileError) as caught:
        write_text(tmp_path / "a" / "b.txt", "text")
    assert re.fullmatch(
        rf"cannot write {tmp_path}/a/b.txt: (File exists|Not a directory); "
        "choose a place that can be written",
        str(caught.value),
    )


def test_writing_names_what_is_written(tmp_path: Path) -> None:
    text = r"^cannot write out: No such file or directory; choose a place that can be written$"
    with pytest.raises(FileError, match=text), writing(Path("out")):
        (tmp_path / "missing" / "a").write_text("")
    with pytest.raises(RuntimeError, match=r"^other$"), writing(Path("out")):
        raise RuntimeError("other")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


# ---- no space left ---------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full of Linux")
def test_no_space_left(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def fill(partial: Path) -> None:
        partial.write_text("half")
        Path("/dev/full").write_text("the rest")

    with pytest.raises(FileError) as caught:
        write_atomic(path, fill)
    assert str(caught.value) == f"no space left while writing {path}; free some space and go on"
    write_text(path, "old")
    with pytest.raises(FileError) as caught:
        write_atomic(path, fill)
    assert str(caught.value) == (
        f"no space left while writing {path}; the version before it is kept; "
        "free some space and go on"
    )
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_told_from_other_errors(small_disk: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = small_disk / "state"
    write_text(path, "old")
    tensors = {"a": torch.zeros(1000, 1000)}
    # none of the three is the same kind of exception
    writers = [
        lambda partial: partial.write_bytes(bytes(4_000_000)),
        lambda partial: torch.save(tensors, partial),
        lambda partial: save_file(tensors, partial),
    ]
    for write in writers:
        with pytest.raises(FileError, match=f"^no space left while writing {path}; the version"):
            write_atomic(path, write)
        assert path.read_text() == "old"
        assert names(small_disk) == ["state"]

    def broken(partial: Path) -> None:
        raise RuntimeError("not for want of space")

    with pytest.raises(RuntimeError, match="not for want of space"):
        write_atomic(path, broken)


@posix
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = """
        import resource, sys
        from pathlib import Path
        from semseg.core.files import write_text
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_text(Path(sys.argv[1]), "x" * 5000)
        except Exception as error:
            print(type(error).__name__, error)
    """
    out, errors = child(code, path).communicate(timeout=60)
    assert errors == ""
    assert out == (
        f"FileError cannot write {path}: File too large; the version before it is kept; "
        "choose a place that can be written\n"
    )
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


# ---- killed ----------------------------------------------------------------------------------


@posix
def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = """
        import sys, time
        from pathlib import Path
        from semseg.core.files import write_atomic

        def slow(partial):
            partial.write_text("half")
            print("half", flush=True)
            time.sleep(60)

        write_atomic(Path(sys.argv[1]), slow)
    """
    process = child(code, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2  # what the killed process could not clean up
    recover(path)
    assert names(tmp_path) == ["a.txt"]


@posix
def test_kills_at_any_moment_leave_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    code = """
        import itertools, sys
        from pathlib import Path
        from semseg.core.files import write_text
        path = Path(sys.argv[1])
        write_text(path, "")
        print(flush=True)
        for i in itertools.count():
            write_text(path, str(i % 10) * 300_000)
    """
    for wait in (0.0, 0.003, 0.02, 0.05):
        process = child(code, path)
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=wait)
        process.kill()
        process.communicate()
        text = path.read_text()
        assert text in {"", *(str(i) * 300_000 for i in range(10))}


@posix
def test_a_kill_between_two_renames_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "state"

    def fill(partial: Path) -> None:
        partial.mkdir()
        (partial / "step").write_text("1")

    write_atomic(path, fill)
    code = """
        import os, signal, sys
        from pathlib import Path
        from semseg.core.files import write_atomic
        rename = Path.rename

        def die(self, target):
            if ".partial-" in self.name:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)

        Path.rename = die
        write_atomic(Path(sys.argv[1]), Path.mkdir)
    """
    process = child(code, path)
    assert process.wait(timeout=60) == -signal.SIGKILL
    process.communicate()
    assert not path.exists()
    recover(path)
    assert (path / "step").read_text() == "1"
    assert names(tmp_path) == ["state"]
    recover(path)  # nothing to do
    assert names(tmp_path) == ["state"]


def test_recover_keeps_the_new_folder(tmp_path: Path) -> None:
    for name in ("state", ".state.old-1", ".state.partial-2", ".state2.old-1"):
        (tmp_path / name).mkdir()
    recover(tmp_path / "state")
    assert names(tmp_path) == [".state2.old-1", "state"]
