"""Killed at any moment and called again, a run leaves the bytes of one that was never killed.

A process starts children by ``fork``, which spares each the time of importing torch. A child kills
itself by SIGKILL at its n-th moment; moments are calls of the network, and just before each flush,
rename and deletion of a file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tifffile")

DRIVER = """
import os, signal, sys, traceback
from pathlib import Path
import torch
from torch import nn
from semseg.core.labels import LabelMap
from semseg.core.preprocess import UNIT
from semseg.predict import raster_output
from semseg.predict.rasters import predict_raster
from semseg.predict.tiling import Tiling

files = {"tifffile", "zarr", "rasterio"}
assert not files & sys.modules.keys(), "imported only where they are needed"
import tifffile
import semseg.predict.raster_gdal, semseg.predict.raster_tiff, semseg.predict.raster_zarr

torch.set_num_threads(1)
torch.manual_seed(0)
raster_output.SIDE = 64
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 5, padding=2))
labels, tiling = LabelMap.from_names(list("abc")), Tiling(tile=64, overlap=0.25)

def child(out, last):
    moments = 0

    def moment():
        nonlocal moments
        moments += 1
        if moments == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(function):
        def call(*given, **named):
            moment()
            return function(*given, **named)
        return call

    for name in ("fsync", "replace", "rename", "unlink"):
        setattr(os, name, watched(getattr(os, name)))

    def scores(images):
        moment()
        return network(images)

    predict_raster(scores, UNIT, labels, source, out, tiling)

def run(out, last=0):
    process = os.fork()
    if process == 0:
        code = 1
        try:
            child(out, last)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(process, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return "killed"
    assert os.WEXITSTATUS(status) == 0, status
    return "done"

whole = folder / "whole.tif"
assert run(whole) == "done"
wanted = whole.read_bytes()

def made(out):
    return out.exists() and not out.with_name(f"{out.name}.part.json").exists()

once = 0
for last in range(1, 1000):
    out = folder / f"{last}.tif"
    if run(out, last) == "done":
        break
    once += 1
    assert not out.exists() or out.read_bytes() == wanted, f"half of it is there at {last}"
    assert made(out) or run(out) == "done"
    assert out.read_bytes() == wanted, f"moment {last}"
again = 0
for step in (14, 17):  # again and again after so many moments
    out = folder / f"every-{step}.tif"
    while not made(out) and run(out, step) == "killed":
        again += 1
        assert again < 200, "it does not come further"
    assert out.read_bytes() == wanted, f"every {step} moments"
left = sorted(p.name for p in folder.iterdir() if p.suffix != ".tif")
assert not left, left
print(once, again)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are started by fork")
def test_same_bytes(tmp_path: Path) -> None:
    from tests.predict.conftest import scene
    from tests.predict.raster_support import save

    image = save(tmp_path / "a.tif", scene(150, 90), tile=(32, 32), compression="zlib")
    folder = tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, "-c", DRIVER, str(image), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    once, again = (int(number) for number in done.stdout.split())
    assert once >= 18
    assert again >= 2
