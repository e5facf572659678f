"""Trains the recipe given as JSON; launched in two processes by `test_processes.py`."""

from __future__ import annotations

import json
import sys

import torch

from semseg.train import train
from tests.train.tiny import listed

if __name__ == "__main__":
    torch.set_num_threads(1)
    with listed():
        train(json.loads(sys.argv[1]), resume=sys.argv[2:] == ["resume"])
