"""``--section.key value``."""

from __future__ import annotations

import pytest

from semseg.cli.overrides import parse_overrides
from semseg.core.checks import SettingError


def test_values_are_yaml() -> None:
    words = ["--a.b", "1", "--c=x=y", "--d.e", "[1, 2]", "--f", "null", "--g", "-1.5", "--h", "off"]
    assert parse_overrides(words) == {
        "a.b": 1,
        "c": "x=y",
        "d.e": [1, 2],
        "f": None,
        "g": -1.5,
        "h": False,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["more.yaml"], "'more.yaml' stands alone; give one recipe, then options as --section.key"),
        (["--a.b"], "--a.b has no value; give --a.b VALUE"),
        (["--a.b", "--c.d", "1"], "--a.b has no value; give --a.b VALUE"),
        (["--a", "1", "--a", "2"], "--a comes twice; give it once"),
        (["--a", "[1"], "--a '[1' is not a YAML value; quote it"),
    ],
)
def test_wrong_words(words: list[str], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_overrides(words)
    assert str(caught.value).startswith(message)
