"""Tiles against the plain sum over all of them, against the whole image, and started anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semseg.core.checks import InputError, SettingError
from semseg.predict.tiles import Read, Rows, seam_error, tiled
from semseg.predict.tiling import Tiling

SETTINGS = [
    Tiling(tile=32, overlap=0.25),
    Tiling(tile=32, overlap=0.8, blend="cosine"),
    Tiling(tile=48, overlap=0.5, blend="none", multiple_of=8),
    Tiling(tile=32, overlap=0.6, margin=7),
    Tiling(tile=32, overlap=0),
]


def narrow(num_classes: int, channels: int = 2) -> nn.Module:
    """A network that sees 3 pixels to each side, with random weights."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(8, num_classes, 3, padding=1)).eval()


class Wide(nn.Module):
    """A network whose output depends on the mean of all that it sees."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.local = narrow(num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.local(images) * (1 + images.mean((1, 2, 3), keepdim=True))


def picture(height: int, width: int) -> Tensor:
    coarse = torch.randn(1, 2, height // 8 + 2, width // 8 + 2)
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0] * 3


def windows(image: Tensor) -> Read:
    return lambda y, x, height, width: image[:, y : y + height, x : x + width]


def joined(rows: list[Rows]) -> tuple[np.ndarray, np.ndarray]:
    ends = [r.top + len(r.labels) for r in rows]
    assert ends[:-1] == [r.top for r in rows[1:]], "without gaps"
    labels = np.concatenate([r.labels for r in rows])
    sure = [r.confidence for r in rows if r.confidence is not None]
    return labels, np.concatenate(sure) if sure else np.zeros(0)


def predict(scores: nn.Module, image: Tensor, tiling: Tiling, classes: int, **more):
    size = (image.shape[1], image.shape[2])
    rows = tiled(scores, windows(image), size, tiling, num_classes=classes, confidence=True, **more)
    return joined(list(rows))


@torch.no_grad()
def plain(scores: nn.Module, image: Tensor, tiling: Tiling) -> Tensor:
    """Weighted mean of probabilities in double precision, all of it in memory."""
    height, width = image.shape[1:]
    total: Tensor | float = 0.0
    for row, down in zip(tiling.spans(height), tiling.weights(height), strict=True):
        for column, across in zip(tiling.spans(width), tiling.weights(width), strict=True):
            window = image[:, row.start : row.stop, column.start : column.stop]
            p = scores(window[None])[0].double()
            p = p.sigmoid() if len(p) == 1 else p.softmax(0)
            sides = (column.start, width - column.stop, row.start, height - row.stop)
            total = total + nn.functional.pad(p * down[:, None] * across, sides)
    assert isinstance(total, Tensor)
    return total


class TestBlending:
    @pytest.mark.parametrize("tiling", SETTINGS)
    @pytest.mark.parametrize("classes", [1, 2, 5])
    @pytest.mark.parametrize("size", [(101, 77), (33, 140), (20, 20)])
    def test_it_is_the_plain_sum(self, tiling: Tiling, classes: int, size: tuple[int, int]) -> None:
        scores, image = Wide(classes), picture(*size)
        labels, sure = predict(scores, image, tiling, classes)
        mean = plain(scores, image, tiling)
        wanted = (mean > 0.5).long()[0] if classes == 1 else mean.argmax(0)
        best = torch.where(mean > 0.5, mean, 1 - mean)[0] if classes == 1 else mean.amax(0)
        assert (torch.from_numpy(labels) == wanted).all()
        assert len(wanted.unique()) > 1
        torch.testing.assert_close(torch.from_numpy(sure), best.float(), atol=2e-6, rtol=0)

    @pytest.mark.parametrize("blend", ["gaussian", "cosine", "none"])
    def test_sums_in_one_order_whatever_the_batch(self, blend: str) -> None:
        image, tiling = picture(70, 150), Tiling(tile=32, overlap=0.5, blend=blend)
        # one convolution of 1 x 1, the same in a batch to the last bit
        scores = nn.Conv2d(2, 3, 1)
        one = predict(scores, image, tiling, 3)
        for batch in (2, 3, 100):
            many = predict(scores, image, tiling, 3, batch=batch)
            assert np.array_equal(one[0], many[0])
            np.testing.assert_allclose(one[1], many[1], rtol=0, atol=1e-6)

    def test_labels_do_not_depend_on_confidence(self) -> None:
        image, tiling, scores = picture(70, 50), SETTINGS[0], narrow(4)
        rows = list(tiled(scores, windows(image), (70, 50), tiling, num_classes=4))
        assert all(r.confidence is None for r in rows)
        assert np.array_equal(joined(rows)[0], predict(scores, image, tiling, 4)[0])

    def test_many_classes(self) -> None:
        image, tiling = picture(20, 20), Tiling(tile=16)
        labels, _ = predict(nn.Conv2d(2, 300, 1), image, tiling, 300)
        assert labels.dtype == np.int32
        assert predict(nn.Conv2d(2, 255, 1), image, tiling, 255)[0].dtype == np.uint8

    def test_a_class_ruled_out_stays_so(self) -> None:
        def scores(images: Tensor) -> Tensor:
            return torch.stack([images[:, 0] * 0, images[:, 0] * 0 - torch.inf], 1)

        labels, sure = predict(scores, picture(40, 40), SETTINGS[0], 2)  # type: ignore[arg-type]
        assert not labels.any()
        assert (abs(sure - 1) < 1e-6).all()

    def test_windows_without_anything_are_not_looked_at(self) -> None:
        image, tiling, scores = picture(96, 96), Tiling(tile=32, overlap=0.25), narrow(3)
        given = predict(scores, image, tiling, 3)[0]
        seen = []

        def read(y: int, x: int, height: int, width: int) -> Tensor | None:
            if x >= 48:
                return None
            seen.append(x)
            return windows(image)(y, x, height, width)

        rows = tiled(scores, read, (96, 96), tiling, num_classes=3, batch=2)
        assert np.array_equal(joined(list(rows))[0][:, :48], given[:, :48])
        assert sorted(set(seen)) == [0, 24]

    def test_only_live_rows_are_held(self) -> None:
        """Rows come out as soon as the last tile that reaches them is done."""
        asked: list[int] = []

        def read(y: int, x: int, height: int, width: int) -> Tensor:
            asked.append(y)
            return torch.zeros(2, height, width)

        rows = tiled(narrow(2), read, (200, 40), SETTINGS[0], num_classes=2)
        came = [(r.top, max(asked)) for r in rows]
        assert came == [(y, y) for y in (0, 24, 48, 72, 96, 120, 144, 168)]


class TestWholeImage:
    @pytest.mark.parametrize("classes", [1, 6])
    @pytest.mark.parametrize("blend", ["gaussian", "cosine", "none"])
    @pytest.mark.parametrize("size", [(130, 97), (64, 200)])
    def test_equal_with_the_receptive_field_as_margin(
        self, classes: int, blend: str, size: tuple[int, int]
    ) -> None:
        tiling = Tiling(tile=32, overlap=0.25, blend=blend, margin=3)
        error = seam_error(narrow(classes), picture(*size), tiling, classes)
        assert error.labels == 0
        assert error.probability <= 1e-6

    def test_a_margin_too_small_is_seen(self) -> None:
        tiling = Tiling(tile=32, overlap=0.25, blend="none", margin=2)
        error = seam_error(narrow(6), picture(130, 97), tiling, 6)
        assert error.probability > 1e-4

    @pytest.mark.parametrize("size", [(130, 97), (75, 150)])
    def test_equal_with_a_stride_where_tiles_lie_on_its_grid(self, size: tuple[int, int]) -> None:
        class Strided(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                height, width = images.shape[-2:]
                padded = nn.functional.pad(images, (0, -width % 8, 0, -height % 8))
                small = nn.functional.avg_pool2d(padded, 8)
                return small.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :height, :width]

        image = picture(*size)
        on_grid = Tiling(tile=32, overlap=0.3, multiple_of=8)
        assert seam_error(Strided(), image, on_grid, 2).probability <= 1e-6
        beside = Tiling(tile=33, overlap=0.3)
        assert seam_error(Strided(), image, beside, 2).labels > 0.01

    def test_seams_are_measured(self) -> None:
        """Two tiles of a network that says what the mean of its image is."""

        def scores(images: Tensor) -> Tensor:
            mean = images.mean((1, 2, 3), keepdim=True).expand(-1, 1, *images.shape[-2:])
            return torch.cat([mean, -mean], 1)

        image = torch.cat([torch.full((1, 4, 4), 2.0), torch.full((1, 4, 4), -3.0)], 2)
        error = seam_error(scores, image, Tiling(tile=4, overlap=0), 2)
        assert error.labels == 0.5  # the mean of all is -0.5
        left, whole = torch.tensor([4.0, -1.0]).sigmoid()
        assert error.probability == pytest.approx(float(left - whole))
        error = seam_error(lambda x: scores(x)[:, :1], image, Tiling(tile=4, overlap=0), 1)
        left, whole = torch.tensor([2.0, -0.5]).sigmoid()
        assert error.labels == 0.5
        assert error.probability == pytest.approx(float(left - whole))


@pytest.mark.parametrize("tiling", SETTINGS)
@pytest.mark.parametrize("classes", [1, 4])
def test_a_later_start_gives_the_same_bits(tiling: Tiling, classes: int) -> None:
    scores, image = Wide(classes), picture(150, 61)
    labels, sure = predict(scores, image, tiling, classes)
    for start in (1, 8, 31, 32, 33, 75, 118, 149):
        again = predict(scores, image, tiling, classes, start=start)
        assert np.array_equal(again[0], labels[start:])
        assert again[1].tobytes() == sure[start:].tobytes()


def test_a_later_start_reads_no_tile_above() -> None:
    asked = []

    def read(y: int, x: int, height: int, width: int) -> Tensor:
        asked.append(y)
        return torch.zeros(2, height, width)

    tiling = Tiling(tile=32, overlap=0.25)
    list(tiled(narrow(2), read, (200, 40), tiling, num_classes=2, start=100))
    assert min(asked) == 72  # 72 … 104 reaches row 100, 48 … 80 does not


class TestRefused:
    def test_scores_of_another_size(self) -> None:
        with pytest.raises(InputError) as error:
            predict(nn.Conv2d(2, 3, 1, stride=4), picture(40, 40), SETTINGS[0], 3)
        assert str(error.value) == (
            "scores of images (1, 2, 32, 32) have the shape (1, 3, 8, 8); wanted (1, 3, 32, 32): "
            "give logits at full size, and num_classes as the network has it"
        )

    @pytest.mark.parametrize("classes", [1, 3])
    def test_scores_that_are_not_numbers(self, classes: int) -> None:
        image = picture(40, 40)
        image[:, 35, 35] = torch.nan
        with pytest.raises(
            InputError, match=r"^the network's output is not a number: its training"
        ):
            predict(nn.Conv2d(2, classes, 1), image, SETTINGS[0], classes)

    def test_batch(self) -> None:
        with pytest.raises(InputError, match=r"^batch is at least 1, got 0$"):
            predict(narrow(2), picture(9, 9), SETTINGS[0], 2, batch=0)
        with pytest.raises(SettingError, match=r"^batch is a whole number, got 1\.5$"):
            predict(narrow(2), picture(9, 9), SETTINGS[0], 2, batch=1.5)
