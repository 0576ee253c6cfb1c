"""The loop: optimizer, schedule, logging, checkpoints. One process or many, through accelerate."""

import contextlib
import dataclasses
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assistant.errors import AssistantError, MissingExtraError
from assistant.model.adapter import save_adapter

from .config import BridgeConfig, Stage
from .loss import BridgeLoss
from .pools import Pools
from .run_log import RunLog
from .samples import Sampler

Progress = Callable[[int, int, dict[str, float]], None]
"""Called as ``progress(step, steps, scalars)`` after every logged step."""

CHECKPOINT = "checkpoint.pt"
EVALUATION_STEP = 2**31 - 1  # draws batches that no training step draws
EVALUATED = 16  # lessons of each kind
LOOKED_AT = 128  # scenes


class BridgeTrainer:
    """Trains the adapter of a model.

    Args:
        config: of the run.
        loss: holds the model.
        sampler: draws the batches.
        pools: what lessons are drawn from, to train and to validate on.
        folder: where the run is kept; a checkpoint found there is resumed.
        description: notes that the adapter carries.
    """

    def __init__(
        self,
        config: BridgeConfig,
        loss: BridgeLoss,
        sampler: Sampler,
        pools: tuple[Pools, Pools],
        folder: Path,
        description: dict[str, Any] | None = None,
    ) -> None:
        try:
            from accelerate import Accelerator
        except ImportError:
            raise MissingExtraError("accelerate", "train") from None
        self.config, self.sampler, self.pools, self.folder = config, sampler, pools, folder
        self.description = description or {}
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        self.loss = loss.to(self.device)
        self.trainable = {name: p for name, p in loss.named_parameters() if p.requires_grad}
        for parameter in self.trainable.values():
            parameter.data = parameter.data.float()  # masters in float32; autocast computes in config.dtype
        decayed = [p for p in self.trainable.values() if p.ndim >= 2]
        others = [p for p in self.trainable.values() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(config.betas[0], config.betas[1]))
        self.optimizer = self.accelerator.prepare(optimizer)
        self.running: list[dict[str, float]] = []  # scalars of the steps since the last logged one
        self.step = self._resume()

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return sum(stage.steps for stage in self.config.stages)

    def run(self, progress: Progress | None = None, stop_after: float | None = None) -> bool:
        """Train from the last checkpoint to the end.

        Args:
            progress: called after every logged step.
            stop_after: seconds after which the run stops at a checkpoint.

        Returns:
            Whether the run is complete.
        """
        log = RunLog(self.folder, self.step) if self.accelerator.is_main_process else None
        started = time.monotonic()
        try:
            while self.step < self.steps:
                self.running.append(self._train_step())
                self.step += 1
                looks = self._is_due(self.config.evaluate_every)
                if looks or self._is_due(self.config.log_every):
                    scalars = self._mean_scalars() | (self.evaluate() if looks else {})
                    scalars["minutes"] = (time.monotonic() - started) / 60
                    if log:
                        log.write(self.step - 1, scalars)
                        if progress:
                            progress(self.step, self.steps, scalars)
                over = stop_after is not None and self._any_process(time.monotonic() - started > stop_after)
                if over or self._is_due(self.config.checkpoint_every):
                    self.save()
                if over:
                    return self.step == self.steps
        finally:
            if log:
                log.close()
        return True

    def _is_due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.steps

    def _mean_scalars(self) -> dict[str, float]:
        running, self.running = self.running, []
        return {key: float(np.mean([r[key] for r in running if key in r])) for key in running[-1]}

    def _any_process(self, holds: bool) -> bool:
        """Whether it holds in any process: clocks differ, and all processes have to stop at the same step."""
        flag = torch.tensor(float(holds), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _train_step(self) -> dict[str, float]:
        stage, within = stage_at(self.config.stages, self.step)
        rate = learning_rate(stage, within)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(hash_seed(self.config.seed, self.step, self.accelerator.process_index))
        self.loss.train()
        scalars = {"learning_rate": rate}
        process = self.accelerator.process_index
        batches = self.sampler.draw_step(stage.lessons, stage.form, self.pools[0], self.step, process)
        total = sum(int(batch.answers.sum()) for batch in batches)
        sums: dict[str, float] = defaultdict(float)
        answers: dict[str, int] = defaultdict(int)
        for batch in batches:
            share = int(batch.answers.sum()) / total
            with self._autocast():
                losses = self.loss(batch.to(self.device), freeze_resampler=stage.freeze_resampler)
            (losses.total * share).backward()
            sums["contrastive"] += losses.contrastive.item() * share
            for kind, (of_kind, number) in losses.by_kind.items():
                sums[kind] += of_kind
                answers[kind] += number
        scalars |= {f"loss/{kind}": value / max(1, answers[kind]) for kind, value in sums.items()}
        if stage.look:
            look = self.sampler.draw_look(stage.look, self.pools[0], self.step, process)
            with self._autocast():
                seen = self.loss.look(look.to(self.device))
            weights = {"contrastive": self.config.contrastive_weight, "scene": self.config.scene_weight}
            sum((weights[key] * value for key, value in seen.items()), torch.zeros((), device=self.device)).backward()
            scalars |= {f"look/{key}": value.item() for key, value in seen.items()}
        self._average_gradients()
        norm = self.accelerator.clip_grad_norm_(list(self.trainable.values()), self.config.max_grad_norm)
        if norm is not None and not math.isfinite(float(norm)):
            raise AssistantError(f"the gradient is {float(norm)} at step {self.step}; lower learning_rate and resume")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return scalars | {"gradient_norm": float(norm or 0.0)}

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        dtype = getattr(torch, self.config.dtype)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def _average_gradients(self) -> None:
        """Over processes, once for all backward passes of a step."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [p.grad for p in self.trainable.values() if p.grad is not None]
        flat = self.accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The loss on objects and scenes never trained on, right and swapped, for every kind of the stage."""
        stage, _ = stage_at(self.config.stages, self.step - 1)
        self.loss.eval()
        scalars = {}
        for kind in stage.lessons:
            batch = self.sampler.draw(kind, stage.form, EVALUATED, self.pools[1], EVALUATION_STEP).to(self.device)
            with self._autocast():
                scalars[f"right/{kind}"] = self.loss(batch).text.item()
                scalars[f"swapped/{kind}"] = self.loss(batch, swapped=True).text.item()
        if stage.look:
            look = self.sampler.draw_look(LOOKED_AT, self.pools[1], EVALUATION_STEP).to(self.device)
            with self._autocast():
                scalars |= {f"right/look/{kind}": value.item() for kind, value in self.loss.look(look).items()}
        return scalars

    def save(self) -> None:
        """Write the adapter, and then the checkpoint, whole or not at all.

        In this order, because a run whose last checkpoint is there writes nothing more.
        """
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        config = self.config
        notes = {**self.description, "steps": self.step, "seed": config.seed}
        save_adapter(
            self.folder / "adapter", self.loss.model, config.vision, config.language, config.rename_tokens, notes
        )
        state = {
            "step": self.step,
            "weights": {name: p.detach().cpu() for name, p in self.trainable.items()},
            "optimizer": self.optimizer.state_dict(),
            "running": self.running,
            "config": dataclasses.asdict(config),
        }
        temporary = self.folder / f"{CHECKPOINT}.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / CHECKPOINT)

    def _resume(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / CHECKPOINT
        if not file.exists():
            (self.folder / "config.json").write_text(json.dumps(dataclasses.asdict(self.config), indent=2) + "\n")
            return 0
        state = torch.load(file, map_location="cpu", weights_only=True)
        with torch.no_grad():
            for name, value in state["weights"].items():
                self.trainable[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.running = state["running"]
        return int(state["step"])


def stage_at(stages: list[Stage], step: int) -> tuple[Stage, int]:
    """The stage of a step, and the step's number within it."""
    for stage in stages:
        if step < stage.steps:
            return stage, step
        step -= stage.steps
    return stages[-1], stages[-1].steps


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then a cosine from ``learning_rate`` to ``final_learning_rate``."""
    if step < stage.warmup:
        return stage.learning_rate * (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    height = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return stage.final_learning_rate + (stage.learning_rate - stage.final_learning_rate) * height


def hash_seed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
