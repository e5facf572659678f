"""Speed and remaining time, as a terminal and a log show them."""

from __future__ import annotations

import io

import pytest
import rich.console

from semseg.cli import pace
from semseg.cli.pace import Pace, paced


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_was_done_before_does_not_count() -> None:
    clock = Clock()
    counted = Pace("images", clock)
    clock.now += 0.5
    assert counted.update(901, 1000) == "2.0 images/s, ETA 0:00:50"


def test_the_speed_is_that_of_the_last_half_minute() -> None:
    clock = Clock()
    counted = Pace("images", clock)
    clock.now += 100  # compiling
    assert counted.update(1, 4000) == "0.0 images/s, ETA 4 days, 15:05:00"
    for done in range(2, 402):
        clock.now += 0.1
        line = counted.update(done, 4000)
    assert line == "10.0 images/s, ETA 0:06:00"


def test_without_an_end_there_is_no_remaining_time() -> None:
    clock = Clock()
    counted = Pace("frames", clock)
    clock.now += 0.1
    assert counted.update(1, 0) == "10.0 frames/s"


def test_a_log_has_a_line_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    tell = pace._lines("images", Pace("images", clock), clock)
    for done in range(1, 101):
        clock.now += 1
        tell(done, 200 if done < 80 else 0)
    assert capsys.readouterr().err.splitlines() == [
        "semseg: 30 of 200 images, 1.0 images/s, ETA 0:02:50",
        "semseg: 60 of 200 images, 1.0 images/s, ETA 0:02:20",
        "semseg: 90 images, 1.0 images/s",
    ]


def test_a_short_call_leaves_a_log_empty(capsys: pytest.CaptureFixture[str]) -> None:
    with paced("images") as on_progress:
        on_progress(1, 1)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    terminal = rich.console.Console

    def console(**_: object) -> rich.console.Console:
        return terminal(file=shown, force_terminal=True, width=100)

    monkeypatch.setattr(rich.console, "Console", console)
    with paced("images") as on_progress:
        on_progress(1, 3)
        on_progress(3, 3)
    assert "3/3" in shown.getvalue()
    assert "images/s, ETA 0:00:00" in shown.getvalue()
