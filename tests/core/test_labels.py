"""What a number in a mask means, there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semseg.core.checks import FileError, InputError
from semseg.core.labels import Label, LabelMap, default_color

STREET = LabelMap(
    (
        Label("void", 0, None, (0, 0, 0)),
        Label("road", 7, 0, (128, 64, 128)),
        Label("car", 26, 1, (0, 0, 142)),
        Label("truck", 27, 1, (0, 0, 70)),  # merged into car
        Label("sky", 23, 2, (70, 130, 180)),
        Label("unsure", 255, None, (1, 2, 3)),
    )
)


def many(count: int, first: int = 0) -> LabelMap:
    return LabelMap(
        (
            *(Label(f"c{i}", first + i, i, default_color(i)) for i in range(count)),
            Label("void", 65535, None, (0, 0, 0)),
        )
    )


# ---- what it says ----------------------------------------------------------------------------


def test_classes_are_in_the_order_of_train_ids() -> None:
    assert STREET.num_classes == 3
    assert STREET.names == ("road", "car", "sky")
    assert STREET.ignore_id == 255
    assert STREET.colors.tolist() == [[128, 64, 128], [0, 0, 142], [70, 130, 180]]
    assert [label.raw_id for label in STREET.classes] == [7, 26, 23]


@pytest.mark.parametrize(("count", "ignore"), [(255, 255), (256, 65535)])
def test_ignore_id_leaves_room_for_the_classes(count: int, ignore: int) -> None:
    assert many(count).ignore_id == ignore


def test_voc_palette() -> None:
    # the colours that every VOC mask shows
    wanted = {0: (0, 0, 0), 1: (128, 0, 0), 5: (128, 0, 128), 8: (64, 0, 0), 20: (0, 64, 128)}
    assert {i: default_color(i) for i in wanted} == wanted
    assert default_color(255) == (224, 224, 192)
    assert len({default_color(i) for i in range(256)}) == 256


def test_difference() -> None:
    assert STREET.difference(STREET) is None
    assert STREET.difference(LabelMap.from_names(["road", "car", "sky"])) is None
    two = LabelMap.from_names(["road", "car"])
    assert STREET.difference(two) == "3 classes against 2"
    other = LabelMap.from_names(["road", "bus", "sky"])
    assert STREET.difference(other) == "class 1 is 'car' against 'bus'"


# ---- masks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, ">u2"])
def test_encode_every_kind_of_integer(dtype: str) -> None:
    mask = np.array([[0, 7, 26], [27, 23, 255]]).astype(dtype)
    encoded = STREET.encode(mask)
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == [[255, 0, 1], [1, 2, 255]]


def test_encode_booleans() -> None:
    labels = LabelMap.from_names(["background", "cell"])
    assert labels.encode(np.array([[False, True]])).tolist() == [[0, 1]]


def test_encode_leaves_the_mask_alone() -> None:
    mask = np.array([[7, 23]], dtype=np.int32)
    STREET.encode(mask)[:] = 0
    many(300).encode(mask)[:] = 0
    assert mask.tolist() == [[7, 23]]


def test_encode_of_views_and_nothing() -> None:
    mask = np.array([[7, 0], [23, 0], [26, 0]], dtype=np.uint8)
    assert STREET.encode(mask[::-1, :1]).tolist() == [[1], [2], [0]]
    assert STREET.encode(np.zeros((0, 4), np.uint8)).shape == (0, 4)


@pytest.mark.parametrize("count", [255, 256, 1000])
def test_many_classes_there_and_back(count: int) -> None:
    labels = many(count, first=100)
    raw = np.arange(100, 100 + count, dtype=np.uint16).reshape(1, -1)
    raw = np.concatenate([raw, np.full_like(raw, 65535)])
    encoded = labels.encode(raw)
    assert encoded.dtype == (np.uint8 if count <= 255 else np.int32)
    assert encoded[0].tolist() == list(range(count))
    assert set(encoded[1].tolist()) == {labels.ignore_id}
    decoded = labels.decode(encoded)
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, raw)


def test_decode_gives_the_first_of_merged_and_of_ignored() -> None:
    decoded = STREET.decode(np.array([[0, 1, 2, 255]], dtype=np.uint8))
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == [[7, 26, 23, 0]]


def test_decode_is_16_bit_where_only_an_ignored_id_is_large() -> None:
    labels = LabelMap.from_names(["a", "b"], ignore={300: "void"})
    assert labels.decode(np.array([[0, 255]])).tolist() == [[0, 300]]


def test_colorize() -> None:
    colors = STREET.colorize(np.array([[1, 255, 2]], dtype=np.uint8))
    assert colors.dtype == np.uint8
    assert colors.tolist() == [[[0, 0, 142], [0, 0, 0], [70, 130, 180]]]


def test_palette() -> None:
    palette = np.array(STREET.palette()).reshape(256, 3)
    assert palette[[0, 7, 26, 27, 255, 9]].tolist() == [
        [0, 0, 0],
        [128, 64, 128],
        [0, 0, 142],
        [0, 0, 70],
        [1, 2, 3],
        [0, 0, 0],
    ]
    assert many(3, first=254).palette() is None


def test_unknown_ids_are_counted() -> None:
    with pytest.raises(InputError) as caught:
        STREET.encode(np.array([[7, 8, 8], [9, 7, 0]], dtype=np.uint8), "a.png")
    assert str(caught.value) == (
        "a.png: holds the ids 8 (2 pixels), 9 (1 pixels), which the label map does not list; "
        "it has 0, 7, 23, 26-27, 255. Add them as classes or as ignored"
    )


@pytest.mark.parametrize("value", [-1, 65536, 2**40, -(2**40)])
def test_ids_beyond_16_bit_are_unknown(value: int) -> None:
    with pytest.raises(InputError, match=rf"^mask: holds the ids {value} \(1 pixels\), which"):
        STREET.encode(np.array([[7, value]], dtype=np.int64))


def test_few_of_many_unknown_ids_are_shown() -> None:
    with pytest.raises(InputError, match=r"107 \(1 pixels\) and 12 more, which"):
        STREET.encode(np.arange(100, 120).reshape(1, -1))


@pytest.mark.parametrize(
    ("mask", "got"),
    [
        (np.zeros((2, 2, 3), np.uint8), "uint8 of shape (2, 2, 3)"),
        (np.zeros((2, 2), np.float32), "float32 of shape (2, 2)"),
    ],
)
def test_encode_refuses_what_is_no_mask(mask: np.ndarray, got: str) -> None:
    with pytest.raises(InputError) as caught:
        STREET.encode(mask, "a.png")
    assert str(caught.value) == (
        f"a.png: wanted a mask of integer ids (H, W), got {got}; convert colours to ids first"
    )


@pytest.mark.parametrize("value", [3, 254, -1, 256])
@pytest.mark.parametrize("method", ["decode", "colorize"])
def test_values_that_are_no_train_ids(method: str, value: int) -> None:
    with pytest.raises(InputError) as caught:
        getattr(STREET, method)(np.array([[0, value]]))
    low, high = sorted((0, value))
    assert str(caught.value) == (
        f"mask holds values outside 0 … 2 and 255: {low} … {high}; "
        "it does not belong to this label map"
    )


def test_decode_of_ignored_pixels_needs_an_ignored_label() -> None:
    labels = LabelMap.from_names(["a", "b"])
    assert labels.decode(np.array([[1]])).tolist() == [[1]]
    with pytest.raises(InputError) as caught:
        labels.decode(np.array([[1, 255]]))
    assert str(caught.value) == "mask holds ignored pixels, but no label of the map is ignored"


# ---- making one ------------------------------------------------------------------------------


def test_dictionary_there_and_back() -> None:
    assert LabelMap.from_dict(STREET.to_dict()) == STREET


def test_short_forms(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("classes: [sky, {name: void, ignore: true}, {name: road, color: [1, 2, 3]}]")
    labels = LabelMap.from_yaml(path)
    assert labels.labels == (
        Label("sky", 0, 0, (0, 0, 0)),
        Label("void", 1, None, (128, 0, 0)),
        Label("road", 2, 1, (1, 2, 3)),
    )
    assert LabelMap.from_dict(["a", "b"]) == LabelMap.from_names(["a", "b"])


def test_order_of_train_ids_can_differ_from_the_files() -> None:
    labels = LabelMap.from_dict([{"name": "a", "train_id": 1}, {"name": "b", "train_id": 0}])
    assert labels.names == ("b", "a")
    assert labels.encode(np.array([[0, 1]])).tolist() == [[1, 0]]


def test_numbering_goes_on_after_merged_classes() -> None:
    labels = LabelMap.from_dict(["a", {"name": "b", "train_id": 0}, "c"])
    assert [label.train_id for label in labels.labels] == [0, 0, 1]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "needs a list 'classes' of names or of {name, id, color}"),
        ("abc", "needs a list 'classes' of names or of {name, id, color}"),
        ([], "needs a list 'classes' of names or of {name, id, color}"),
        (
            ["a", False],
            "class 1 is False; wanted a name (in quotes if YAML takes it for something else) "
            "or a map",
        ),
        ([{"nam": "a"}], "class 0 has no setting 'nam'; did you mean 'name'?"),
        ([{"id": 3}], "class 0 has no name; add one, in quotes if it is a number"),
        ([{"name": 7}], "class 0 has no name; add one, in quotes if it is a number"),
        ([{"name": "a", "id": "x"}], "id of 'a' is 'x'; wanted a whole number"),
        ([{"name": "a", "id": True}], "id of 'a' is True; wanted a whole number"),
        ([{"name": "a", "id": 1.0}], "id of 'a' is 1.0; wanted a whole number"),
        ([{"name": "a", "id": -1}], "raw id of 'a' is -1; wanted 0 … 65535"),
        ([{"name": "a", "id": 65536}], "raw id of 'a' is 65536; wanted 0 … 65535"),
        ([{"name": "a", "ignore": "no"}], "ignore of 'a' is 'no'; wanted true or false"),
        ([{"name": "a", "color": "red"}], "color of 'a' is 'red'; wanted [red, green, blue]"),
        ([{"name": "a", "color": [1, 2]}], "color of 'a' is [1, 2]; wanted [red, green, blue]"),
        ([{"name": "a", "color": [1, 2, 0.5]}], "color of 'a' is 0.5; wanted a whole number"),
        (
            [{"name": "a", "color": [1, 2, 256]}],
            "colour of 'a' is (1, 2, 256); wanted three numbers 0 … 255",
        ),
        (
            [{"name": "a", "id": 1}, {"name": "b", "id": 1}],
            "label map lists raw ids [1] twice; give each id one line",
        ),
        (
            [{"name": "a", "train_id": 1}],
            "train ids must be 0 … K-1 without gaps, got [1]; "
            "leave them out to number the classes in their order",
        ),
        (
            [{"name": "a", "ignore": True}],
            "label map has no class that is not ignored; list at least one",
        ),
        (["a", "b", "a"], "label map has two classes named 'a'; rename one"),
    ],
)
def test_refused_lists(data: object, text: str) -> None:
    with pytest.raises(InputError) as caught:
        LabelMap.from_dict(data, source="classes.yaml")
    assert str(caught.value) == f"classes.yaml: {text}"


def test_merged_and_ignored_labels_may_share_a_name() -> None:
    labels = LabelMap(
        (
            Label("car", 0, 0, (0, 0, 0)),
            Label("car", 1, 0, (0, 0, 0)),
            Label("car", 2, None, (0, 0, 0)),
        )
    )
    assert labels.names == ("car",)


def test_yaml_files_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    with pytest.raises(FileError) as caught:
        LabelMap.from_yaml(path)
    assert str(caught.value) == (
        f"{path} does not exist; write one with 'classes:' and a list of names"
    )
    path.write_text("classes: [a, b")
    with pytest.raises(FileError, match=r"^\S+classes.yaml is not YAML: while parsing a flow"):
        LabelMap.from_yaml(path)
    path.write_bytes(b"classes: [\xff]")
    with pytest.raises(FileError, match=r"classes.yaml is not YAML: 'utf-8' codec"):
        LabelMap.from_yaml(path)
    with pytest.raises(FileError, match=r" cannot be read: Is a directory; give a YAML file$"):
        LabelMap.from_yaml(tmp_path)
    path.write_text("classes: 3")
    with pytest.raises(InputError, match=rf"^{path}: needs a list 'classes' of names"):
        LabelMap.from_yaml(path)
