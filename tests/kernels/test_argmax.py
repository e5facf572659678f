from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from semseg.core.checks import InputError, SettingError
from semseg.kernels import argmax, cells, upsample, upsample_argmax
from tests.kernels.support import LargestTensor, enlarged, regions

# the fixture only chooses a way, the same for every example
SAME_WAY = [HealthCheck.function_scoped_fixture]
SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))
SHAPES = st.tuples(st.integers(1, 14), st.integers(1, 14))


@pytest.fixture(params=["cells", "strips", "as it decides"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to the labels, at sizes where all but one would not be taken."""
    if request.param != "as it decides":
        monkeypatch.setattr(argmax, "SMALL", 0)
        monkeypatch.setattr(upsample, "STRIP", 500)
        monkeypatch.setattr(cells, "MOST", 2.0 if request.param == "cells" else -1.0)
    if request.param == "cells":
        # noise too shall go this way: let a cell cost nothing
        monkeypatch.setattr(cells, "COST", (0, 0, 0))
        monkeypatch.setattr(cells, "LEAST", 0)
    return str(request.param)


def check(logits: Tensor, size: tuple[int, int], align_corners: bool) -> None:
    """Labels are the float64 argmax wherever the first two differ by more than rounding."""
    values = enlarged(logits, size, align_corners)
    labels = upsample_argmax(logits, size, align_corners)
    assert labels.dtype == torch.int64
    assert labels.shape == values[:, 0].shape
    chosen = values.gather(1, labels[:, None])[:, 0]
    # places are rounded to float32 as in interpolate, which moves steep values a little
    slack = 1e-5 if logits.dtype != torch.float64 else 1e-12
    assert (values.amax(1) - chosen).max() <= slack * max(1, float(logits.abs().max()))


@pytest.mark.usefixtures("way")
class TestEveryWay:
    @settings(deadline=None, max_examples=60, suppress_health_check=SAME_WAY)
    @given(SHAPES, SIZES, st.integers(2, 9), st.booleans(), st.integers(0, 99), st.booleans())
    def test_labels_are_those_of_argmax(
        self, way: str, shape, size, classes, align_corners, seed, noise
    ) -> None:
        torch.manual_seed(seed)
        logits = torch.randn(1, classes, *shape) if noise else regions(classes, *shape, seed)
        check(logits, size, align_corners)

    @settings(deadline=None, max_examples=40, suppress_health_check=SAME_WAY)
    @given(SHAPES, st.integers(1, 9), st.integers(2, 5), st.integers(0, 99))
    def test_ties_go_to_the_first(self, way: str, shape, factor, classes, seed) -> None:
        # few whole numbers, and places that float32 holds exactly: interpolate rounds nowhere
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randint(0, 2, (1, classes, *shape), generator=generator).float()
        factor = 2 ** (factor % 4)
        size = (shape[0] * factor, shape[1] * factor)
        wanted = F.interpolate(logits.double(), size, mode="bilinear").argmax(1)
        assert torch.equal(upsample_argmax(logits, size), wanted)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions(self, way: str, dtype: torch.dtype) -> None:
        check(regions(7, 20, 24, images=2).to(dtype), (77, 96), False)

    def test_a_batch_is_its_images(self, way: str) -> None:
        logits = regions(5, 16, 18, images=3)
        together = upsample_argmax(logits, (64, 70))
        for image, labels in zip(logits, together, strict=True):
            assert torch.equal(upsample_argmax(image[None], (64, 70))[0], labels)

    def test_confidence_changes_no_label(self, way: str) -> None:
        # whole numbers tie often: any other arithmetic would break them another way
        generator = torch.Generator().manual_seed(0)
        ties = torch.randint(0, 3, (1, 6, 11, 13), generator=generator).float()
        for logits in (ties, regions(6, 11, 13)):
            for size in ((77, 91), (50, 64), (5, 7)):
                labels, confidence = upsample_argmax(logits, size, return_confidence=True)
                assert torch.equal(labels, upsample_argmax(logits, size))
                wanted = enlarged(logits, size, False).softmax(1).amax(1)
                torch.testing.assert_close(confidence.double(), wanted, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
    def test_narrow_labels(self, way: str, dtype: torch.dtype) -> None:
        logits = regions(9, 16, 18)
        labels = upsample_argmax(logits, (64, 72), dtype=dtype)
        assert labels.dtype == dtype
        assert torch.equal(labels.long(), upsample_argmax(logits, (64, 72)))

    def test_any_layout(self, way: str) -> None:
        logits = regions(9, 16, 18)
        wanted = upsample_argmax(logits, (64, 72))
        last = logits.contiguous(memory_format=torch.channels_last)
        assert torch.equal(upsample_argmax(last, (64, 72)), wanted)
        wide = torch.cat([logits, logits], 3)[..., :18]
        assert torch.equal(upsample_argmax(wide, (64, 72)), wanted)

    def test_a_class_may_win_inside_a_cell_only(self, way: str) -> None:
        # another class is larger at either sample, yet class 2 is the largest between them
        logits = torch.tensor([[5.0, 0.0], [0.0, 5.0], [4.0, 4.0]]).view(1, 3, 1, 2)
        wanted = [0] * 20 + [2] * 16 + [1] * 20
        assert upsample_argmax(logits, (1, 56))[0, 0].tolist() == wanted
        assert upsample_argmax(logits.mT, (56, 1))[0, :, 0].tolist() == wanted

    def test_one_class_everywhere(self, way: str) -> None:
        logits = torch.zeros(1, 4, 5, 6)
        logits[:, 2] = 1
        assert upsample_argmax(logits, (40, 50)).eq(2).all()

    def test_many_classes(self, way: str) -> None:
        check(regions(300, 9, 9), (40, 40), True)


@pytest.mark.parametrize("classes", [1, 2, 19])
def test_confidence_is_the_softmax_at_full_size(classes: int) -> None:
    logits = regions(classes, 20, 30, images=2)
    labels, confidence = upsample_argmax(logits, (150, 201), return_confidence=True)
    values = enlarged(logits, (150, 201), False)
    if classes == 1:
        values = torch.cat([torch.zeros_like(values), values], 1)
    assert confidence.dtype == torch.float32
    torch.testing.assert_close(confidence.double(), values.softmax(1).amax(1), rtol=0, atol=1e-5)
    near = values.topk(2, 1).values.diff(dim=1)[:, 0].abs() <= 1e-5
    assert ((labels == values.argmax(1)) | near).all()
    assert torch.equal(labels, upsample_argmax(logits, (150, 201)))


def test_one_channel_is_a_sigmoid() -> None:
    logits = torch.tensor([[[[-1.0, 0.0, 3.0]]]])
    assert upsample_argmax(logits, (1, 3)).tolist() == [[[0, 0, 1]]]


def test_memory_does_not_follow_the_size() -> None:
    for logits in (torch.randn(1, 40, 32, 32), regions(40, 32, 32)):
        size = (640, 640)
        with LargestTensor() as seen:
            upsample_argmax(logits, size)
            upsample_argmax(logits, size, return_confidence=True)
        # int64 labels are the largest; all logits at full size would be twenty times as much
        assert seen.bytes <= size[0] * size[1] * 8


def test_no_gradient_is_kept() -> None:
    logits = regions(5, 8, 8).requires_grad_()
    labels, confidence = upsample_argmax(logits, (32, 32), return_confidence=True)
    assert not labels.requires_grad
    assert not confidence.requires_grad


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    logits = regions(19, 128, 256)
    labels = upsample_argmax(logits.cuda(), (1024, 2048)).cpu()
    values = enlarged(logits, (1024, 2048), False)
    chosen = values.gather(1, labels[:, None])[:, 0]
    assert (values.amax(1) - chosen).max() <= 1e-4


class TestRefusals:
    def test_integers(self) -> None:
        with pytest.raises(SettingError) as error:
            upsample_argmax(torch.zeros(1, 2, 4, 4, dtype=torch.int64), (8, 8))
        assert str(error.value) == (
            "upsample_argmax takes logits of a floating point type, got torch.int64; "
            "give the network's output, not labels"
        )

    @pytest.mark.parametrize("shape", [(2, 4, 4), (1, 0, 4, 4)])
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError) as error:
            upsample_argmax(torch.zeros(shape), (8, 8))
        assert str(error.value) == (
            "upsample_argmax takes logits of shape (N, K, h, w) with at least one value, got "
            f"{shape}; add the batch dimension with logits[None] if it is missing"
        )

    @pytest.mark.parametrize("size", [(0, 8), (8,)])
    def test_sizes(self, size) -> None:
        with pytest.raises(InputError) as error:
            upsample_argmax(torch.zeros(1, 2, 4, 4), size)
        assert str(error.value) == (
            f"upsample_argmax takes size as (height, width), at least 1 each, got {size}"
        )

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    def test_labels_that_do_not_fit(self, dtype: torch.dtype) -> None:
        with pytest.raises(InputError) as error:
            upsample_argmax(torch.zeros(1, 300, 2, 2), (4, 4), dtype=dtype)
        assert str(error.value) == (
            f"{dtype} does not hold the labels of 300 classes; take torch.int64, or leave dtype out"
        )
