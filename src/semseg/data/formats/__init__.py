"""Files of labels, both ways: masks in PNG, and the JSON, XML and text of labelling tools.

One module per format. All go through the :class:`~semseg.core.labels.LabelMap`: a name, id or
colour that it lacks is an error which names the file. What a mask holds comes back exactly from
every format (:mod:`semseg.data.formats.fill` says how polygons do).
"""

from __future__ import annotations

from semseg.data.formats.base import FORMATS, Annotation, LabelFormat, Mask
from semseg.data.formats.convert import Conversion, convert
from semseg.data.formats.find import detect_format, read_annotations

__all__ = [
    "Annotation",
    "Conversion",
    "LabelFormat",
    "Mask",
    "convert",
    "detect_format",
    "label_format",
    "list_formats",
    "read_annotations",
]


def list_formats() -> list[str]:
    """Return the names of the formats.

    Example:
        >>> "labelme" in list_formats()
        True
    """
    return list(FORMATS)


def label_format(name: str) -> LabelFormat:
    """Return the facts of one format.

    Raises:
        UnknownNameError: there is none of that name; the nearest are shown.
    """
    return FORMATS[name]
