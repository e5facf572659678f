"""``semseg pack``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semseg.cli import main
from semseg.data import build_dataset


def test_a_folder_becomes_shards_and_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    root = tmp_path / "photos"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    (root / "classes.yaml").write_text("classes: [soil, leaf]\n")
    for i in range(10):
        Image.fromarray(draw.integers(0, 256, (8, 9, 3), np.uint8)).save(root / f"images/{i}.png")
        Image.fromarray(draw.integers(0, 2, (8, 9), np.uint8)).save(root / f"masks/{i}.png")
    out = tmp_path / "shards"
    assert main(["pack", str(root), str(out), "--per-shard", "5"]) == 0
    told = capsys.readouterr().out
    for split in ("train", "val"):
        plain = build_dataset("folder", split, root)
        packed = build_dataset("webdataset", split, out)
        assert f"{split}: {-(-len(plain) // 5)} shards; written to {out}" in told
        assert len(plain) == len(packed) > 0
        for i in range(len(plain)):
            assert torch.equal(plain[i].image, packed[i].image)
            assert torch.equal(plain[i].mask, packed[i].mask)
    assert main(["pack", str(root), str(out)]) == 2
    assert "train-000000.tar" in capsys.readouterr().err
