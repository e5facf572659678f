"""``--section.key value`` on the command line: changes to a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semseg.core.checks import SettingError


def parse_overrides(tokens: Sequence[str]) -> dict[str, Any]:
    """Return recipe keys and their values, read as YAML; whether a key exists is not checked here.

    Args:
        tokens: words such as ``["--data.root", "photos", "--optimizer.lr=1e-3"]``.

    Raises:
        SettingError: a word is not an option, a value is missing or not YAML, a key comes twice.

    Example:
        >>> parse_overrides(["--train.epochs", "3", "--train.ema_decay=null"])
        {'train.epochs': 3, 'train.ema_decay': None}
    """
    import yaml

    overrides: dict[str, Any] = {}
    words = list(tokens)
    while words:
        option = words.pop(0)
        if not option.startswith("--"):
            raise SettingError(
                f"{option!r} stands alone; give one recipe, then options as --section.key value"
            )
        key, equals, text = option.removeprefix("--").partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                raise SettingError(
                    f"--{key} has no value; give --{key} VALUE (semseg train --help lists all)"
                )
            text = words.pop(0)
        if key in overrides:
            raise SettingError(f"--{key} comes twice; give it once")
        try:
            overrides[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingError(f"--{key} {text!r} is not a YAML value; quote it") from error
    return overrides
