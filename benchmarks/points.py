"""Time what Point Transformer needs of a room of 100,000 points: ``python benchmarks/points.py``.

Nearest points and furthest point sampling against their plain formulas, in one run, and the whole
network (width 32, 13 classes, float32, eval). Prints and writes to ``results/points.json`` wall
time, and processor time of all threads together, which other work on the machine changes less. The
plain formulas are timed for the first thousand queries or points only, and scaled up; on those the
results must be equal. The first argument is the number of points, the second that of threads.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semseg.core.clouds import Clouds
from semseg.kernels.furthest import furthest
from semseg.kernels.neighbours import nearest
from semseg.models import create_model

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
THREADS = int(sys.argv[2]) if len(sys.argv) > 2 else 2
RESULTS = Path(__file__).parent / "results" / "points.json"
QUERIES = 1000
"""For which all pairs are compared."""


def room(count: int) -> Tensor:
    """Points of a room of 8 x 6 x 3 m: most on its six sides, a quarter between them."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=generator) * torch.tensor([8.0, 6.0, 3.0])
    side = torch.randint(0, 8, (count,), generator=generator)
    for axis, length in enumerate((8.0, 6.0, 3.0)):
        points[side == 2 * axis, axis] = 0
        points[side == 2 * axis + 1, axis] = length
    return points


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return what a call gives, and its times."""
    wall, processor = time.perf_counter(), time.process_time()
    found = call()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return found, {"wall_s": round(wall, 3), "processor_s": round(processor, 3)}


def all_pairs(k: int, points: Tensor, queries: Tensor) -> Tensor:
    """Return squared distances of the nearest points, 100 queries at a time."""
    found = []
    for part in queries.split(100):
        x, y, z = (part[:, None] - points).unbind(-1)
        found.append((x * x + y * y + z * z).topk(k, largest=False).values)
    return torch.cat(found)


def one_by_one(points: Tensor, count: int) -> Tensor:
    """Return furthest points by the formula, as anybody would write it."""
    chosen, away = [0], torch.full((len(points),), float("inf"))
    for _ in range(count - 1):
        x, y, z = (points - points[chosen[-1]]).unbind(-1)
        away = torch.minimum(away, x * x + y * y + z * z)
        chosen.append(int(away.argmax()))
    return torch.tensor(chosen)


def main() -> None:
    """Time everything once."""
    torch.set_num_threads(THREADS)
    points = room(COUNT)
    rows: dict[str, Any] = {}
    for k in (8, 16):
        found, rows[f"nearest {k}"] = timed(lambda k=k: nearest(k, points, (COUNT,)))
        some = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))[:QUERIES]
        plain, cost = timed(lambda k=k, some=some: all_pairs(k, points, points[some]))
        scaled = {key: round(value * COUNT / QUERIES, 1) for key, value in cost.items()}
        equal = bool(torch.equal(plain, found[1][some]))
        rows[f"nearest {k}"] |= {"all_pairs_scaled": scaled, "equal": equal}
    count = COUNT // 4
    ours, rows["furthest"] = timed(lambda: furthest(points, (COUNT,), (count,)))
    plain, cost = timed(lambda: one_by_one(points, QUERIES))
    scaled = {key: round(value * count / QUERIES, 1) for key, value in cost.items()}
    equal = bool(torch.equal(ours[:QUERIES], plain))
    rows["furthest"] |= {"chosen": count, "plain_scaled": scaled, "equal": equal}
    network = create_model("point_transformer").eval()
    clouds = Clouds(points, torch.rand(COUNT, 3), (COUNT,))
    with torch.inference_mode():
        _, rows["network"] = timed(lambda: network(clouds))
    place = {"points": COUNT, "threads": THREADS, "torch": torch.__version__}
    place |= {"processor": platform.processor() or platform.machine(), "load": os.getloadavg()[0]}
    RESULTS.write_text(json.dumps(place | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
    for name, row in rows.items():
        print(name, row)


if __name__ == "__main__":
    main()
