"""What is said about one class of transformers; :mod:`semseg.models.hf_kinds` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Rules = tuple[tuple[str, str], ...]
"""Patterns and replacements, applied to a name one after the other. ``@0.``, ``@1.`` … in a
replacement mark parts of one of our tensors, which are joined in that order."""

NOTHING = r"(?!)"
"""A pattern that matches no name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One class of transformers over one kind of trunk.

    Names of settings may lead inside, e.g. ``decoder_config.num_queries``; without a dot they are
    looked for in the network's own and then in the trunk's.

    Args:
        network: registry name of the same network here.
        rules: from its names to ours.
        trunk: field of our config that names the trunk.
        shape: its settings that decide the trunk.
        trunks: our trunk by their values.
        fields: settings that are fields of our config, by the field's name.
        fixed: settings, also of the trunk, with the only values taken, the default first.
        unused: tensors that it holds and no output depends on.
        zero: tensors that change nothing as long as they are zero, as they must be.
        inside: setting that holds those of the trunk.
        model_types: what the trunk may call itself; none for any.
        less: our fields that count one less than the setting does.
    """

    network: str
    rules: Rules
    trunk: str
    shape: tuple[str, ...]
    trunks: Mapping[tuple[Any, ...], str]
    fields: Mapping[str, str]
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    unused: str = NOTHING
    zero: str = NOTHING
    inside: str | None = None
    model_types: tuple[str, ...] = ()
    less: tuple[str, ...] = ()
