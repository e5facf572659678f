"""The one call that trains: reads the recipe, takes the devices, runs the loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, ProjectConfiguration

from semseg.core.checks import InputError
from semseg.train.checkpoint import Position
from semseg.train.config import TrainConfig, load_recipe, parse_recipe
from semseg.train.folder import Run, check_folder, write_result
from semseg.train.loop import Loop, Stopped
from semseg.train.progress import Display, StopSignals
from semseg.train.sections import LoopConfig
from semseg.train.session import Session, open_session
from semseg.train.trackers import INSTALLED, Trackers

SPLITTING = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
"""Ways to train in which no process holds all parameters."""


def train(
    config: TrainConfig | Mapping[str, Any] | str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Run:
    """Train a network as a recipe says and leave a run folder.

    SIGTERM and Ctrl-C save the training state and return; a run that is resumed gives the same
    weights as one that was never stopped (bit by bit on a CPU).

    Args:
        config: a recipe file, a run folder, nested dictionaries, or a checked config.
        overrides: values by dotted path, e.g. ``{"train.epochs": 5}``.
        resume: go on where the run of this name stopped.
        overwrite: replace the run of this name.

    Raises:
        SemsegError: the recipe, the data or the folder do not fit; nothing was written.
        DivergedError: the loss became infinite or nan.
    """
    if isinstance(config, str | Path):
        config = load_recipe(config, overrides)
    else:
        data = config.to_dict() if isinstance(config, TrainConfig) else config
        config = parse_recipe(data, overrides)
    torch.set_flush_denormal(True)  # weights near zero otherwise slow a CPU down many times
    accelerator = _accelerator(config.train, config.folder)
    try:
        _check_whole(accelerator)
        if accelerator.is_main_process:
            check_folder(config, resume=resume, overwrite=overwrite)
        with Display(accelerator.is_main_process) as display, StopSignals() as signals:
            session, position = open_session(config, accelerator, display.line, resume=resume)
            try:
                with Trackers(accelerator, display.line) as trackers:
                    Loop(session, position, display, signals, trackers).run()
            except Stopped as reason:
                display.line(
                    f"stopped by {reason} after step {position.step} of {session.steps}; the state "
                    "is saved, --resume goes on"
                )
            return _finish(session, position, display)
    finally:
        accelerator.end_training()
        # a second run in this process may need another device or precision
        AcceleratorState._reset_state(reset_partial_state=True)


def _accelerator(config: LoopConfig, folder: Path) -> Accelerator:
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(config.device, True):
        raise InputError(f"train.device is {config.device}, but there is none; use auto or cpu")
    if config.precision == "fp16" and (config.device == "cpu" or not any(here.values())):
        raise InputError("train.precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return Accelerator(
        cpu=config.device == "cpu",
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        log_with=[name for name in config.trackers if INSTALLED[name]()] or None,
        project_config=ProjectConfiguration(str(folder), logging_dir=str(folder / "tensorboard")),
    )


def _check_whole(accelerator: Accelerator) -> None:
    """Refuse launches after which no process holds all parameters."""
    if (kind := accelerator.distributed_type) in SPLITTING:
        raise InputError(
            f"accelerate splits parameters between processes here ({kind.value}), which states and "
            "weights files do not hold; launch with --multi_gpu instead, each network fits one GPU"
        )


def _finish(session: Session, position: Position, display: Display) -> Run:
    """Write ``result.json`` and the report, and say how the run went."""
    folder, best = session.config.folder, position.best
    if session.accelerator.is_main_process and best:
        from semseg.train.report import write_report  # brings matplotlib

        write_result(folder, position, position.images_per_second(session.samples_per_step))
        write_report(folder)
        display.line(f"best miou {best['miou']:.4f} in epoch {best['epoch']}; {folder}")
    return Run(
        folder=folder,
        miou=best.get("miou"),
        epoch=best.get("epoch"),
        step=position.step,
        finished=position.finished,
    )
