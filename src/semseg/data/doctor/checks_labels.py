"""Checks of the numbers in masks against the label map."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

from semseg.core.checks import ranges
from semseg.core.labels import LabelMap
from semseg.data.doctor.checks_masks import judged
from semseg.data.doctor.findings import Evidence, Finding, count

_VOID_NAMES = frozenset(
    ("void", "unlabelled", "unlabeled", "unannotated", "ignore", "ignored", "unknown", "undefined")
)
_STRETCH = 10  # least factor between two ids for which spreading over the grey levels is guessed
_LEAST_MASKS = 5
_MOSTLY = 0.5


def ids(evidence: Evidence) -> Iterator[Finding]:
    """Ids that the label map does not list, with a guess where they come from."""
    labels = evidence.labels
    if labels is None:
        return
    groups: dict[str, list[int]] = {}
    for i in evidence.where(judged):
        if guess := guess_ids(set(evidence.looks[i].ids), labels):
            groups.setdefault(guess, []).append(i)
    for guess, positions in groups.items():
        listed = ranges(label.raw_id for label in labels.labels)
        first = evidence.looks[positions[0]].ids
        held = {number for i in positions for number in evidence.looks[i].ids}
        unknown = ranges(held - _listed(labels))
        if guess == "off_by_one" and (others := _also_shifted(evidence, labels)):
            positions = sorted({*positions, *others})
        many = count(len(positions), "mask")
        text = {
            "off_by_one": f"{many} counted from another number than the classes (ids {unknown} are "
            f"not listed, which are {listed}); correct the ids in the list of classes or the masks",
            "stretched_ids": f"{many} with ids spread over the grey levels (ids {ranges(first)} in "
            f"the first, listed are {listed}); divide them, or list these ids",
            "palette_lost": f"{many} whose numbers are the brightness of the classes' colours: a "
            "palette or colour image was turned to grey; make them anew from the original",
            "void_not_listed": f"{many} with 255, which is not listed; if it marks what shall not "
            "count, add {name: void, id: 255, ignore: true} to the classes",
            "unknown_ids": f"{many} with ids that the classes do not list ({unknown}; listed are "
            f"{listed}); add them as classes or as ignored, or correct the masks",
        }[guess]
        yield evidence.finding(guess, "error", text, positions)


def guess_ids(found: set[int], labels: LabelMap) -> str | None:
    """Name what is wrong with the ids of one mask, or ``None`` if all are listed.

    Example:
        >>> labels = LabelMap.from_names(["ground", "tree", "house"])
        >>> [guess_ids(s, labels) for s in ({0, 2}, {1, 2, 3}, {0, 255}, {0, 127, 254}, {1, 77})]
        [None, 'off_by_one', 'void_not_listed', 'stretched_ids', 'unknown_ids']
    """
    listed = _listed(labels)
    unknown = found - listed
    if not unknown:
        return None
    if len(found) > 1 and found <= {_luma(*label.color) for label in labels.labels}:
        return "palette_lost"
    counted = {label.raw_id for label in labels.labels if not label.ignored}
    ignored = listed - counted
    factor = gcd(*found)
    # 0 and 255 where there are more than two classes is rather a void that is not listed
    spread = unknown != {255} or labels.num_classes <= 2
    if len(found) > 1 and spread and factor >= _STRETCH and {i // factor for i in found} <= listed:
        return "stretched_ids"
    if unknown == {255}:
        return "void_not_listed"
    first, last = min(counted), max(counted)
    rest = found - ignored
    if unknown == {last + 1} and first not in found and {i - 1 for i in rest} <= counted:
        return "off_by_one"
    if unknown == {first - 1} and last not in found and {i + 1 for i in rest} <= counted:
        return "off_by_one"
    return "unknown_ids"


def _listed(labels: LabelMap) -> set[int]:
    return {label.raw_id for label in labels.labels}


def _luma(red: int, green: int, blue: int) -> int:
    """Return the grey that Pillow makes of a colour."""
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _also_shifted(evidence: Evidence, labels: LabelMap) -> list[int]:
    """Return all masks, if none of them has the first id (or none the last)."""
    counted = [label.raw_id for label in labels.labels if not label.ignored]
    masks = evidence.where(judged)
    for end in (min(counted), max(counted)):
        if not any(end in evidence.looks[i].ids for i in masks):
            return masks
    return []


def first_id(evidence: Evidence) -> Iterator[Finding]:
    """Id 0 counts as a class, but no mask has it while all other classes occur."""
    labels = evidence.labels
    masks = evidence.where(judged)
    if labels is None or len(masks) < _LEAST_MASKS or labels.num_classes < 3:
        return
    held: set[int] = set()
    for i in masks:
        held |= evidence.looks[i].ids.keys()
    counted = {label.raw_id: label.name for label in labels.labels if not label.ignored}
    if 0 in counted and counted.keys() - held == {0} and held <= _listed(labels):
        text = (
            f"id 0 ({counted[0]}) occurs in no mask, while all other classes do; are the masks "
            "counted from 1, and the last id something else than a class?"
        )
        yield Finding("off_by_one", "warning", text)


def meaning_of_void(evidence: Evidence) -> Iterator[Finding]:
    """Void that counts as a class, or a background that does not count though it is most of all."""
    labels = evidence.labels
    if labels is None:
        return
    for label in labels.labels:
        large = label.raw_id == 255 and labels.num_classes > 2
        if not label.ignored and (label.name.lower() in _VOID_NAMES or large):
            text = (
                f"id {label.raw_id} ({label.name}) counts as a class; if it marks what is not "
                "labelled, give it ignore: true"
            )
            yield Finding("counted_void", "warning", text)
    sums = [look.counts for look in evidence.looks if look.counts is not None]
    total = int(sum(counts.sum() for counts in sums))
    ignored = int(sum(counts[-1] for counts in sums))
    if total and ignored > _MOSTLY * total:
        names = ", ".join(f"{x.raw_id} ({x.name})" for x in labels.labels if x.ignored)
        text = (
            f"{100 * ignored / total:.0f} % of all pixels are ignored (ids {names}); if that is "
            "background, it must count as a class or the network will never learn it"
        )
        yield Finding("mostly_ignored", "warning", text)


def empty(evidence: Evidence) -> Iterator[Finding]:
    """Masks of ignored pixels only, or of a single class among masks with several."""
    labels = evidence.labels
    known = evidence.where(lambda look: look.counts is not None and bool(look.counts.any()))
    if labels is None:
        return
    void: list[int] = []
    single: list[int] = []
    for i in known:
        counts = evidence.looks[i].counts
        assert counts is not None
        if not counts[:-1].any():
            void.append(i)
        elif (counts[:-1] > 0).sum() == 1 and not counts[-1] and judged(evidence.looks[i]):
            single.append(i)
    if void:
        text = (
            f"{count(len(void), 'mask')} in which every pixel is ignored: nothing is learned from "
            "them and nothing measured; label them or take them out"
        )
        yield evidence.finding("void_mask", "warning", text, void)
    if single and labels.num_classes > 1:
        usual = len(single) > _MOSTLY * len(known)
        text = f"{count(len(single), 'mask')} of one class only: not labelled, or truly empty?"
        yield evidence.finding("empty_mask", "note" if usual else "warning", text, single)


CHECKS = (ids, first_id, meaning_of_void, empty)
