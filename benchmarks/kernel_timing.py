"""Times and memory of two ways to the same result, for ``benchmarks/kernels.py``."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Call = Callable[[], Any]


def seconds(call: Call, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the time of one call by a clock."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def on_one_core(ours: Call, plain: Call, repeat: int) -> dict[str, float]:
    """Return the least processor time on one thread: other work on the machine hardly shows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        mine = min(seconds(ours, time.process_time) for _ in range(repeat))
        theirs = min(seconds(plain, time.process_time) for _ in range(max(1, repeat // 3)))
    finally:
        torch.set_num_threads(threads)
    figures = {"ours_ms": mine * 1000, "plain_ms": theirs * 1000, "ratio": theirs / mine}
    return {name: round(value, 2) for name, value in figures.items()}


def most_memory(call: Call) -> int:
    """Return the most bytes that were allocated at once during the call, the result included."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    held = most = 0
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def compare(what: str, ours: Call, plain: Call, repeat: int, wanted: str) -> dict[str, Any]:
    """Time both calls by turns and print one line."""
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in range(repeat + 1):
        for name, call in (("ours", ours), ("plain", plain)):
            spent = seconds(call)
            if turn:  # the first does not count
                times[name].append(spent * 1000)
    least = {name: min(t) for name, t in times.items()}
    median = {name: statistics.median(t) for name, t in times.items()}
    row: dict[str, Any] = {"what": what, "wanted": wanted, "repetitions": repeat}
    for name in times:
        row[name] = {"least_ms": round(least[name], 2), "median_ms": round(median[name], 2)}
    row["one_core"] = on_one_core(ours, plain, repeat)
    row["ratio_least"] = round(least["plain"] / least["ours"], 1)
    row["ratio_median"] = round(median["plain"] / median["ours"], 1)
    for name, call in (("ours", ours), ("plain", plain)):
        row[name]["memory_mb"] = round(most_memory(call) / 1e6, 2)
    ratios = row["ratio_least"], row["ratio_median"], row["one_core"]["ratio"]
    memory = row["ours"]["memory_mb"], row["plain"]["memory_mb"]
    print(
        f"{what:<58} {least['ours']:>8.2f} {median['ours']:>8.2f} {least['plain']:>9.2f} "
        f"{median['plain']:>9.2f} {ratios[0]:>6} {ratios[1]:>6} {ratios[2]:>6.1f} "
        f"{memory[0]:>9} {memory[1]:>9}  {wanted}",
        flush=True,
    )
    return row
