"""Checks of files as such: damage, suffixes, frames."""

from __future__ import annotations

from collections.abc import Iterator

from semseg.data.doctor.findings import Evidence, Finding, Role, count

_ROLES: tuple[Role, ...] = ("image", "mask")


def damaged(evidence: Evidence) -> Iterator[Finding]:
    """Files without bytes, cut off, or not images at all."""
    groups: dict[tuple[str, Role], list[int]] = {}
    for i, look in enumerate(evidence.looks):
        for of in _ROLES:
            if problem := look.problem(of):
                check = "empty_file" if "has no bytes" in problem else "damaged"
                groups.setdefault((check, of), []).append(i)
    for (check, of), positions in groups.items():
        first = evidence.looks[positions[0]].problem(of)
        what = "without a byte" if check == "empty_file" else "that cannot be used"
        text = f"{count(len(positions), f'{of} file')} {what} ({first})"
        yield evidence.finding(check, "error", text, positions, of)


def wrong_suffix(evidence: Evidence) -> Iterator[Finding]:
    """A PNG named .jpg and the like: read here by its content, but not everywhere."""
    for of in _ROLES:
        headers = ((i, look.header(of)) for i, look in enumerate(evidence.looks))
        found = {i: header.format for i, header in headers if header and not header.suits}
        if found:
            text = (
                f"{count(len(found), of)} of another format than the suffix says (the first is "
                f"{next(iter(found.values()))}); rename, other programs go by the suffix"
            )
            yield evidence.finding("wrong_suffix", "warning", text, list(found), of)


def frames(evidence: Evidence) -> Iterator[Finding]:
    """Animations and files of several pages; only the first is read."""
    for of in _ROLES:
        headers = ((i, look.header(of)) for i, look in enumerate(evidence.looks))
        positions = [i for i, header in headers if header and header.frames > 1]
        if positions:
            text = (
                f"{count(len(positions), of)} with several frames or pages, of which only the "
                "first is read; store each as a file of its own"
            )
            yield evidence.finding("frames", "warning", text, positions, of)


CHECKS = (damaged, wrong_suffix, frames)
