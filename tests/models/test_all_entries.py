"""What every network's entry and file state, and what every network refuses."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from semseg.core.checks import InputError, SettingError, UnknownNameError
from semseg.models import create_model
from semseg.models.base import Entry
from tests.models.conftest import Build
from tests.models.kinds import kind_of
from tests.models.support import images_for

SECTIONS = ("Paper", "Shapes", "Parameters", "Deviations")


def test_docstring_has_four_sections_and_the_count(entry: Entry) -> None:
    text = inspect.getdoc(inspect.getmodule(entry.cls)) or ""
    headings = re.findall(rf"^({'|'.join(SECTIONS)})\b.*:", text, flags=re.MULTILINE)
    assert headings == list(SECTIONS), "one heading each, in this order"
    stated = text.partition("\nParameters")[2].partition("\nDeviations")[0]
    assert f"{entry.num_params:,}" in stated, "section Parameters lacks the registered count"


def test_entry_states_usable_facts(entry: Entry) -> None:
    assert re.match(r"arXiv:\d{4}\.\d{4,5}$", entry.paper) or "10." in entry.paper, (
        "paper is 'arXiv:0000.00000', or venue and DOI"
    )
    assert 1990 <= entry.year <= 2100
    assert entry.title
    assert entry.idea.endswith(".")
    assert entry.repository is None or entry.repository.startswith("https://")
    assert entry.verified in {"reference output", "arithmetic", "reading"}
    known = {f.name for f in fields(entry.config)}
    assert entry.small.keys() | entry.encoder_defaults.keys() <= known
    assert min(entry.paper_size) >= entry.cls.min_size
    for result in entry.published:
        assert 1 < result.miou <= 100, "mIoU in percent, as papers print it"
        assert result.dataset
        assert result.source


def test_expected_failures_name_tests(entry: Entry) -> None:
    texts = (
        path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_all_*.py")
    )
    tests = {test for text in texts for test in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    assert entry.xfail.keys() <= tests


def test_parameter_count_is_the_sources(entry: Entry) -> None:
    with torch.device("meta"):  # no memory, no time: any size can be counted
        model = create_model(entry.name)
    counted = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counted == entry.num_params


def test_an_unknown_setting_is_refused_with_the_nearest(name: str) -> None:
    wanted = f"{name} has no setting 'num_clases'; did you mean 'num_classes'?"
    with pytest.raises(SettingError, match=re.escape(wanted)):
        create_model(name, num_clases=3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"num_classes": 0}, "needs num_classes >= 1, got 0"), ({"in_channels": 0}, "in_channels")],
)
def test_impossible_settings_are_refused(name: str, setting: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model(name, **setting)


def test_inputs_it_cannot_take_are_refused(build: Build) -> None:
    model = build(in_channels=3)
    for inputs, error, message in kind_of(model).refused(model, images_for(model)):
        with pytest.raises(error, match=message):
            model(inputs)


def test_any_encoder_can_be_taken(entry: Entry, build: Build) -> None:
    if "encoder" not in {f.name for f in fields(entry.config)}:
        pytest.skip("its paper has one trunk")
    model = build(encoder="resnet18", in_channels=1, num_classes=3)
    images = images_for(model)
    with torch.inference_mode():
        assert model(images).shape == (1, 3, *images.shape[-2:])
    assert model.parameter_groups()["encoder"]
    with pytest.raises(UnknownNameError, match="resnet18"):
        build(encoder="resnet81")
