"""The training loop, on one CPU, one GPU or many."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from semseg.data.loader import Batch
from semseg.train import artefacts, folder
from semseg.train.checkpoint import Position
from semseg.train.network import freeze_norms
from semseg.train.optim import lr_factor, set_lr
from semseg.train.profiling import Profile
from semseg.train.progress import Display, StopSignals
from semseg.train.session import Session
from semseg.train.trackers import Trackers
from semseg.train.validation import pictures, validate
from semseg.train.watch import CHECK_EVERY, LossWatch


class Stopped(Exception):
    """The loop ends early; the message says by what."""


class Loop:
    """Epochs, steps, validation, and what is written after each.

    Args:
        session: the objects of the run.
        position: where it is.
        display: what a person sees.
        signals: whether one asked to stop.
        trackers: where scores are sent.
    """

    def __init__(
        self,
        session: Session,
        position: Position,
        display: Display,
        signals: StopSignals,
        trackers: Trackers,
    ) -> None:
        self.session, self.position = session, position
        self.display, self.signals, self.trackers = display, signals, trackers
        self.settings = session.config.train
        self.accelerator = session.accelerator
        self.device = session.accelerator.device
        self.main = session.accelerator.is_main_process
        self.world = session.accelerator.num_processes
        self.folder = session.config.folder
        wanted = self.settings.profile and self.main
        self.profile = Profile(self.folder, display.line, wanted=wanted)
        every = 1 if self.device.type == "cpu" else CHECK_EVERY
        self.watch = LossWatch(every, self.folder / "last.safetensors")
        self.started = time.monotonic() - position.seconds
        self.deadline = time.monotonic() + 60 * (self.settings.max_minutes or float("inf"))

    def run(self) -> None:
        """Train until all epochs are done.

        Raises:
            Stopped: a signal came or the time is over; the state is saved.
            DivergedError: the loss is infinite or not a number.
        """
        if self.main:
            folder.write_rows(self.folder, self.position.rows)
        try:
            while not self.position.finished:
                self._train_epoch()
                self._end_epoch()
        except Stopped:
            self._save()
            raise

    # ---- one epoch -------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        position, every = self.position, self.settings.save_every_steps
        remaining = self.session.steps_per_epoch - position.step_in_epoch
        batches = self.session.batches(position) if remaining else iter(())
        if self.settings.freeze_norm:
            freeze_norms(self.session.parts.model)
        for _ in range(remaining):
            began = time.monotonic()
            with self.profile:
                self._step(batches)
            if self.watch.due:
                self.watch.read(position)
            position.train_seconds += time.monotonic() - began
            self._show()
            if every is not None and position.step % every == 0:
                self._save()
            self._check_stop()
        self.watch.read(position)

    def _step(self, batches: Iterator[Batch]) -> None:
        """Do one optimiser step over ``accumulate`` batches."""
        session, position, accumulate = self.session, self.position, self.settings.accumulate
        # What the network draws depends on nothing but seed, step and process: a run can be
        # resumed at any step without generator states, whatever else has drawn in between.
        draw = f"{session.config.seed}/{position.step}/{self.accelerator.process_index}"
        torch.manual_seed(zlib.crc32(draw.encode()))
        set_lr(session.optimizer, self._lr_factor(position.step))
        sums: dict[str, Tensor] = {}
        paths: list[str] = []
        for i in range(accumulate):
            batch = next(batches).to(self.device, non_blocking=True)
            paths += batch.paths
            if session.channels_last and isinstance(batch.images, Tensor):
                batch.images = batch.images.contiguous(memory_format=torch.channels_last)
            last = i == accumulate - 1
            with nullcontext() if last else self.accelerator.no_sync(session.objective):
                terms = session.objective(batch.images, batch.masks)
                loss = torch.stack(list(terms.values())).sum()
                self.accelerator.backward(loss / accumulate)
            for name, term in terms.items():
                share = term.detach().float() / accumulate
                sums[name] = sums[name] + share if name in sums else share
        if self.settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(
                session.objective.parameters(), self.settings.clip_norm
            )
        session.optimizer.step()
        session.optimizer.zero_grad(set_to_none=True)
        if self.settings.ema_decay is not None:
            session.average.update_parameters(session.parts.model)
        position.step += 1
        position.step_in_epoch += 1
        position.samples_in_epoch += session.samples_per_step
        self.watch.add(position.step, sums, paths)

    # ---- after an epoch --------------------------------------------------------------------

    def _end_epoch(self) -> None:
        position, settings = self.position, self.settings
        if settings.ema_decay is None:
            self.session.average.update_parameters(self.session.parts.model)
        position.seconds = time.monotonic() - self.started
        lr = self.session.config.optimizer.lr * self._lr_factor(position.step - 1)
        speed = position.images_per_second(self.session.samples_per_step)
        row = artefacts.epoch_row(position, lr, speed)
        last = position.epoch + 1 == settings.epochs
        best = False
        if last or (position.epoch + 1) % settings.val_every == 0:
            best = self._validate(row)
        position.rows.append(row)
        position.epoch += 1
        if settings.patience is not None and position.stale >= settings.patience and not last:
            last = True
            self.display.line(f"no better score in {position.stale} validations; stopping early")
        position.step_in_epoch = position.samples_in_epoch = 0
        position.loss_sums = {}
        position.finished = last
        self._save()
        if self.main:
            folder.write_rows(self.folder, position.rows)
            self.trackers.log({k: v for k, v in row.items() if k != "step"}, position.step)
        self.display.line(artefacts.epoch_line(row, settings.epochs, best))

    def _validate(self, row: dict[str, float]) -> bool:
        """Score the average weights into ``row``; keep them and return true if they are best."""
        session, position = self.session, self.position
        found = validate(session, self._show_validation)
        if self.main and self.trackers.wanted:
            self.trackers.show(pictures(session), position.step)
        row |= artefacts.score_columns(found.scores)
        if position.best and not found.scores.miou > position.best["miou"]:
            return False
        position.best = {
            **found.to_dict(session.parts.labels.names),
            "epoch": position.epoch + 1,
            "step": position.step,
        }
        self._write_weights("best.safetensors")
        return True

    def _save(self) -> None:
        """Write ``last.safetensors`` and the training state."""
        self.watch.read(self.position)
        self.position.seconds = time.monotonic() - self.started
        if not self.main:
            return
        if self.settings.ema_decay is None:
            self.session.average.update_parameters(self.session.parts.model)
        self._write_weights("last.safetensors")
        self.session.state.save(self.folder, self.position)

    def _write_weights(self, name: str) -> None:
        if self.main:
            session, best = self.session, self.position.best
            shown = ("miou", "accuracy", "absent", "epoch", "step")
            scores = {"step": self.position.step}
            if name == "best.safetensors":
                scores = {key: best[key] for key in shown}
            artefacts.write_weights(
                self.folder / name, session.average.module, session.parts, session.config, scores
            )

    # ---- small things ----------------------------------------------------------------------

    def _lr_factor(self, step: int) -> float:
        session = self.session
        return lr_factor(session.config.schedule, step, session.steps, session.steps_per_epoch)

    def _show(self) -> None:
        speed = self.position.images_per_second(self.session.samples_per_step)
        self.display.step(self.position.step, self.session.steps, f"{speed:.1f} images/s")

    def _show_validation(self, done: int) -> None:
        self.display.validation(done, len(self.session.parts.val) // self.world)
        if self.signals.requested and self.world == 1:
            raise Stopped("a signal")

    def _check_stop(self) -> None:
        """Raise :class:`Stopped` in all processes if one has a reason."""
        over = time.monotonic() > self.deadline
        stop = over or self.signals.requested
        if self.world > 1:
            if stop:
                self.accelerator.set_trigger()
            stop = self.accelerator.check_trigger()
        if stop:
            raise Stopped("train.max_minutes" if over else "a signal")
