"""Views are undone exactly, counted before, and averaged as they should be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semseg.core.checks import InputError, SettingError, UnknownNameError
from semseg.predict.tta import TURNS, Views

ALL = ("hflip", "vflip", "rot90")


def place(images: Tensor) -> Tensor:
    """Scores that differ between all pixels and know nothing of their neighbours."""
    return torch.cat([images, images.sin(), -images], 1)


def blur(images: Tensor) -> Tensor:
    """Scores of a neighbourhood that looks the same from everywhere."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])[None, None] / 16
    smooth = F.conv2d(images, kernel, padding=1)
    return torch.cat([smooth, smooth**2, 1 - smooth], 1)


def slanted(images: Tensor) -> Tensor:
    """Scores that look to the right and further down."""
    moved = F.pad(images, (0, 1, 0, 2))[..., 2:, 1:]
    return torch.cat([images - moved, images * moved, moved], 1)


class TestUndone:
    @pytest.mark.parametrize("word", TURNS)
    def test_each_word_exactly(self, word: str) -> None:
        images = torch.randn(2, 1, 5, 8)
        got = Views((word,), mean="logits").apply(place)(images)
        assert torch.equal(got, place(images))

    def test_what_the_network_sees(self) -> None:
        shown: list[Tensor] = []

        def scores(images: Tensor) -> Tensor:
            shown.append(images)
            return images

        image = torch.arange(6.0).view(1, 1, 2, 3)
        Views(ALL).apply(scores)(image)
        wanted = [torch.rot90(x, k, (2, 3)) for x in (image, image.flip(3)) for k in range(4)]
        assert len(shown) == 8
        for one in wanted:
            assert sum(torch.equal(one, other) for other in shown) == 1
        assert torch.equal(shown[0], image)

    @pytest.mark.parametrize(
        ("words", "last"),
        [
            (("hflip", "rot90"), lambda x: torch.rot90(x.flip(-1), 1, (2, 3))),
            (("rot90", "hflip"), lambda x: torch.rot90(x, 1, (2, 3)).flip(-1)),
            (("rot90", "vflip"), lambda x: torch.rot90(x, 1, (2, 3)).flip(-2)),
        ],
    )
    def test_words_are_done_one_after_another(
        self, words: tuple[str, str], last: Callable[[Tensor], Tensor]
    ) -> None:
        shown: list[Tensor] = []

        def scores(images: Tensor) -> Tensor:
            shown.append(images)
            return images

        image = torch.arange(6.0).view(1, 1, 2, 3)
        Views(words).apply(scores)(image)
        assert len(shown) == 4
        assert torch.equal(shown[3], last(image))

    @pytest.mark.parametrize("mean", ["logits", "probabilities"])
    def test_a_symmetric_network_says_the_same_in_every_view(self, mean: str) -> None:
        images = torch.randn(1, 1, 6, 9)
        got = Views(ALL, mean=mean).apply(blur)(images)
        torch.testing.assert_close(got.softmax(1), blur(images).softmax(1))

    def test_a_constant_image_at_every_scale(self) -> None:
        images = torch.full((1, 1, 7, 10), 0.3)
        got = Views(ALL, (0.5, 1.25), mean="logits").apply(place)(images)
        torch.testing.assert_close(got, place(images))


class TestMean:
    def views(self, images: Tensor) -> list[Tensor]:
        """Logits of hflip and scale 0.5, by hand."""
        half = F.interpolate(images, (4, 5), mode="bilinear", align_corners=False)
        small = [slanted(half), slanted(half.flip(-1)).flip(-1)]
        return [
            slanted(images),
            slanted(images.flip(-1)).flip(-1),
            *(F.interpolate(s, (7, 10), mode="bilinear", align_corners=False) for s in small),
        ]

    def test_of_logits(self) -> None:
        images = torch.randn(2, 1, 7, 10)
        got = Views(("hflip",), (0.5,), "logits").apply(slanted)(images)
        torch.testing.assert_close(got, torch.stack(self.views(images)).mean(0))

    def test_of_probabilities(self) -> None:
        images = torch.randn(2, 1, 7, 10)
        got = Views(("hflip",), (0.5,)).apply(slanted)(images)
        wanted = torch.stack([view.softmax(1) for view in self.views(images)]).mean(0)
        torch.testing.assert_close(got.exp(), wanted)
        torch.testing.assert_close(got.softmax(1), wanted)

    def test_of_one_channel(self) -> None:
        images = 20 * torch.randn(2, 1, 7, 10)
        got = Views(("hflip",)).apply(lambda x: slanted(x)[:, :1])(images)
        first, second = (view[:, :1] for view in self.views(images)[:2])
        assert got.shape == (2, 1, 7, 10)
        torch.testing.assert_close(got.sigmoid(), (first.sigmoid() + second.sigmoid()) / 2)
        sure = torch.tensor([[[[-40.0], [40.0]]]])  # of the second, 1 - p would be 0
        torch.testing.assert_close(Views(("hflip",)).apply(lambda x: x)(sure), sure)

    def test_classes_out_of_the_question_stay_numbers(self) -> None:
        never = torch.tensor([0.0, -torch.inf]).view(1, 2, 1, 1)
        got = Views(("hflip",)).apply(lambda x: never.expand(1, 2, *x.shape[-2:]))(
            torch.ones(1, 1, 1, 2)
        )
        assert got.isfinite().all()
        assert got.argmax(1).tolist() == [[[0, 0]]]

    def test_the_network_s_own_memory_stays(self) -> None:
        held, kept = (torch.arange(18.0).view(1, 2, 3, 3) for _ in range(2))
        Views(("hflip",), mean="logits").apply(lambda x: held)(torch.ones(1, 1, 3, 3))
        assert torch.equal(held, kept)

    def test_without_views_the_network_itself(self) -> None:
        assert Views().apply(place) is place


class TestCost:
    @pytest.mark.parametrize(
        ("words", "views", "cost"),
        [
            ([], 1, 1.0),
            (["hflip"], 2, 2.0),
            (["hflip", "vflip", "rot90"], 8, 8.0),
            (["rot90", "rot180"], 4, 4.0),
            (["scale=0.5,2"], 3, 5.25),
            (["hflip", "scale=0.5,2"], 6, 10.5),
        ],
    )
    def test_views_and_pixels(self, words: list[str], views: int, cost: float) -> None:
        parsed = Views.parse(words)
        assert len(parsed) == views
        assert parsed.cost(64, 128) == cost

    def test_it_is_what_the_network_sees(self) -> None:
        seen = 0

        def scores(images: Tensor) -> Tensor:
            nonlocal seen
            seen += images.shape[-2] * images.shape[-1]
            return images

        views = Views.parse(["vflip", "rot90", "scale=0.3,1.7"])
        views.apply(scores)(torch.zeros(1, 1, 13, 31))
        assert seen == pytest.approx(views.cost(13, 31) * 13 * 31)

    def test_words_come_back(self) -> None:
        assert (
            str(Views.parse(["hflip", "scale=0.5,1.25", "rot90"])) == "hflip rot90 scale=0.5,1.25"
        )
        assert str(Views()) == "none"


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["hflp"], "unknown view 'hflp'; did you mean 'hflip' or 'vflip'?"),
            (["scales"], "unknown view 'scales'; did you mean 'scale='?"),
        ],
    )
    def test_unknown_words(self, words: list[str], message: str) -> None:
        with pytest.raises(UnknownNameError) as error:
            Views.parse(words)
        assert str(error.value) == message

    def test_an_unknown_mean(self) -> None:
        with pytest.raises(UnknownNameError) as error:
            Views(("hflip",), mean="logit")
        assert str(error.value) == "unknown mean 'logit'; did you mean 'logits'?"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (
                ["hflip", "hflip"],
                "views repeat among the combinations of hflip hflip; leave out a word that the "
                "others make up (rot180 is hflip and vflip)",
            ),
            (
                ["hflip", "vflip", "rot180"],
                "views repeat among the combinations of hflip vflip rot180; leave out a word that "
                "the others make up (rot180 is hflip and vflip)",
            ),
            (["scale=0.5", "scale=0.5"], "scales repeat in (0.5, 0.5); give each one once"),
            (
                ["scale=0.5,1.0"],
                "scale 1 repeats the image as it is, always a view; leave it out",
            ),
            (["scale=0"], "a scale is a factor above 0, got 0; 0.5 halves"),
            (["scale=-2"], "a scale is a factor above 0, got -2; 0.5 halves"),
            (["scale=nan"], "a scale is a factor above 0, got nan; 0.5 halves"),
            (
                ["scale=half"],
                "scale=half is not a list of numbers; write it as scale=0.5,0.75,1.25",
            ),
            (["scale="], "scale= is not a list of numbers; write it as scale=0.5,0.75,1.25"),
        ],
    )
    def test_views_that_are_none(self, words: list[str], message: str) -> None:
        with pytest.raises(InputError) as error:
            Views.parse(words)
        assert str(error.value) == message

    def test_a_scale_of_another_kind(self) -> None:
        with pytest.raises(SettingError) as error:
            Views(scales=("0.5",))  # type: ignore[arg-type]
        assert str(error.value) == "a scale is a number, got '0.5'"
