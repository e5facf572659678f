"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
from pathlib import Path
from semseg.core.memory import give_back

def megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith("VmRSS")) / 1000

blocks = [bytearray(100_000) for _ in range(2000)]
kept = blocks[::50]  # holes between blocks that stay, as a network leaves them
full = megabytes()
del blocks
freed = megabytes()
print(full - freed, give_back(), freed - megabytes())
"""


@pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")),
    reason="only glibc is known to keep freed memory",
)
def test_holes_go_back_to_the_system():
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    by_itself, done, given = ran.stdout.split()
    assert float(by_itself) < 50, "nothing was kept: the test shows nothing"
    assert done == "True"
    assert float(given) > 120
