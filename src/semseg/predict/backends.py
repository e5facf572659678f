"""What can compute a network: PyTorch in several forms, ONNX Runtime, OpenVINO.

Each is a function that makes, for images of one size, a function from images to logits. None is
trusted: :class:`semseg.predict.engine.Engine` compares it with PyTorch.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache, cached_property
from importlib.util import find_spec
from queue import Queue
from typing import Any

import torch
from torch import Tensor, nn

from semseg.core.checks import InputError, unknown_name
from semseg.core.flush import kept
from semseg.models.base import SegmentationModel

Compute = Callable[[Tensor], Tensor]
"""From images ``(N, C, H, W)`` to logits, of the network's own stride where it has one."""

Compile = Callable[[Tensor, int], Compute]
"""Makes a :data:`Compute` for images of the size of those given, which so many threads may call at
a time; only OpenVINO gains by more than one."""

HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions by name."""


class Scores(nn.Module):
    """The part of a network that a backend computes: what comes before labels are taken."""

    def __init__(self, model: SegmentationModel, own_stride: bool) -> None:
        super().__init__()
        self.model = model
        self.own_stride = own_stride

    @cached_property
    def fused(self) -> Scores:
        """The same with norms folded, made once."""
        return Scores(self.model.fuse(), self.own_stride).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits at the network's own stride, or else at the size of ``images``."""
        if self.own_stride:
            return self.model.forward_heads(images)["logits"]
        out: Tensor = self.model(images)
        return out


def eager(scores: Scores, precision: str) -> Compile:
    """PyTorch, the network as it is: the arithmetic of validation."""
    return lambda example, streams: _cast(scores, precision, example)


def fused(scores: Scores, precision: str) -> Compile:
    """PyTorch, with norms folded and channels last: the same function, other rounding."""
    form = scores.fused.to(memory_format=torch.channels_last)

    def compile_for(example: Tensor, streams: int) -> Compute:
        run = _cast(form, precision, example)
        return lambda images: run(images.contiguous(memory_format=torch.channels_last))

    return compile_for


def compiled(scores: Scores, precision: str) -> Compile:
    """``torch.compile`` of the folded network; on a CPU it needs a C++ compiler."""
    form = torch.compile(scores.fused, dynamic=False)
    return lambda example, streams: _cast(form, precision, example)


def onnxruntime(scores: Scores, precision: str) -> Compile:
    """ONNX Runtime on the CPU."""
    _require("onnxruntime", "export", "onnx", "onnxscript")
    if precision != "fp32":
        raise InputError(f"onnxruntime computes in fp32 here, got {precision}; take openvino")
    form = scores.fused

    def compile_for(example: Tensor, streams: int) -> Compute:
        import onnxruntime as ort

        file: Any = io.BytesIO()  # as good as a path there, though its type does not say so
        program = torch.onnx.export(form, (example,), dynamo=True, verbose=False)
        assert program is not None  # it is where dynamo is asked for
        program.save(file)
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        providers = ["CPUExecutionProvider"]
        session = kept(lambda: ort.InferenceSession(file.getvalue(), options, providers=providers))
        (name,) = [i.name for i in session.get_inputs()]

        def compute(images: Tensor) -> Tensor:
            found = kept(lambda: session.run(None, {name: images.numpy()}))
            return torch.from_numpy(found[0])

        return compute

    return compile_for


def openvino(scores: Scores, precision: str) -> Compile:
    """OpenVINO on the CPU."""
    _require("openvino", "fast")
    if precision == "fp16":
        raise InputError("openvino computes in fp32 or bf16 on a CPU, got fp16")
    form = scores.fused
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "CPU_DENORMALS_OPTIMIZATION": True,
    }

    def compile_for(example: Tensor, streams: int) -> Compute:
        from openvino import convert_model

        # anew for each size: what a program holds as numbers is then right
        with torch.inference_mode(False), torch.no_grad():
            program = torch.export.export(form, (example.clone(),))
        graph = convert_model(program)
        own = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": streams}
        compiled = kept(lambda: _openvino_core().compile_model(graph, "CPU", settings | own))
        free: Queue[Any] = Queue()
        for _ in range(streams):
            free.put(compiled.create_infer_request())

        def compute(images: Tensor) -> Tensor:
            request = free.get()
            try:
                kept(lambda: request.infer([images.numpy()], share_inputs=True))
                # a copy, because the next image is written into the same place
                return torch.from_numpy(request.get_output_tensor().data.copy())
            finally:
                free.put(request)

        return compute

    return compile_for


@cache
def _openvino_core() -> Any:
    """Return the one core of this process, which is never released.

    Where a processor has AMX, each core gives its thread another stack for signals. Of two cores
    released in the order they were made, the second puts back the stack of the first, which is
    gone by then: the next signal, e.g. of a data loader's process that ends, kills the program.
    """
    from openvino import Core

    return Core()


BACKENDS: dict[str, Callable[[Scores, str], Compile]] = {
    "eager": eager,
    "fused": fused,
    "compile": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
"""By the name they are asked for."""

CPU_ONLY = ("onnxruntime", "openvino")


def choose(backend: str, device: torch.device) -> tuple[str, ...]:
    """Return the backends that a name means, best first: ``"auto"`` is those that need no wait.

    Raises:
        UnknownNameError: no such backend.
        InputError: one that cannot run on ``device``.

    Example:
        >>> choose("auto", torch.device("cuda"))
        ('fused',)
    """
    if backend == "auto":
        faster = device.type == "cpu" and find_spec("openvino") is not None
        return ("openvino", "fused") if faster else ("fused",)
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, ["auto", *BACKENDS])
    if backend in CPU_ONLY and device.type != "cpu":
        raise InputError(f"backend {backend} runs on the CPU, not on {device}; give device='cpu'")
    return (backend,)


def _cast(module: nn.Module | Callable[..., Any], precision: str, example: Tensor) -> Compute:
    half = HALF[precision]

    def compute(images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, half, enabled=half is not None):
            out: Tensor = module(images)
        return out.float()

    return compute


def _require(package: str, extra: str, *more: str) -> None:
    if missing := [name for name in (package, *more) if find_spec(name) is None]:
        raise InputError(
            f"backend {package} needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed; pip install 'semseg[{extra}]'"
        )
