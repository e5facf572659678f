"""Tables from ids to ids."""

from __future__ import annotations

import numpy as np
import pytest

from semseg.core.id_table import UNKNOWN, IdTable


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
@pytest.mark.parametrize("count", [1, 11, 254, 255, 256])
def test_every_type_gives_the_same(dtype: type, count: int) -> None:
    table = IdTable({raw: count - 1 - raw for raw in range(count)})
    mask = np.random.default_rng(0).integers(0, count, (5, 7)).astype(dtype)
    new, missing = table(mask)
    np.testing.assert_array_equal(new, count - 1 - mask.astype(int))
    assert missing is None
    assert new.flags.writeable


@pytest.mark.parametrize("top", [7, 255, 300])
def test_ids_without_an_entry_are_pointed_out(top: int) -> None:
    table = IdTable({0: 0, 1: top, 2: 1})
    new, missing = table(np.array([[0, 1, 2, 3, 255]], np.uint8))
    assert missing is not None
    assert missing.tolist() == [[False, False, False, True, True]]
    assert new.tolist() == [[0, top, 1, UNKNOWN, UNKNOWN]]


def test_no_byte_is_left_to_mark_them() -> None:
    table = IdTable({raw + 1: raw for raw in range(256)})
    new, missing = table(np.array([[0, 255]], np.uint8))
    assert missing is not None
    assert (new.tolist(), missing.tolist()) == ([[UNKNOWN, 254]], [[True, False]])


def test_views_are_read_in_their_order() -> None:
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    table = IdTable({i: i for i in range(6)})
    np.testing.assert_array_equal(table(mask.T)[0], mask.T)
    np.testing.assert_array_equal(table(mask[:, ::-1])[0], mask[:, ::-1])
