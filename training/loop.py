"""The training loop of all stages: learning rates, optimizers, log, progress bar, and resuming after a kill.

The data of a step depends only on the step's number, so a resumed run ends like an uninterrupted one, up to
the order of floating-point sums.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .recipe import Schedule
from .training_state import (
    Optimizers,
    StageProgress,
    append_row,
    drop_rows_after,
    restore_state,
    save_state,
)

StepLoss = Callable[[int], Tensor]  # step, from 0 -> loss, float32[]
Measure = Callable[[], Mapping[str, float]]  # names and values of metrics on held-out scenes
TOWER = "vision_tower."  # prefix of the vision tower's parameters in the models of all stages
# Parts of the names of embeddings. These are stored like matrices but are lists of vectors.
EMBEDDINGS = ("embed_tokens", "position_embedding", "places", "probe")
BETAS = (
    0.9,
    0.98,
)  # of AdamW; transformers are commonly trained with a shorter second-moment memory than the default
MAX_SHOWN = 4  # metrics next to the progress bar: the loss and the first measured ones
LOSS_DECAY = 0.98  # of the running mean of the loss in the log


def tower_rate_share(step: int, schedule: Schedule) -> float:
    """Return the vision tower's learning rate as a share of the other parameters', from 0 to 1.

    The gradients of an untrained decoder are mostly noise and would undo what the tower has learned. The
    tower is therefore frozen at first, and its rate then rises slowly (arXiv 2407.07726, section 3.2.2).
    """
    return min(1.0, max(0.0, (step - schedule.tower_from) / schedule.tower_ramp))


def learning_rate(step: int, schedule: Schedule) -> float:
    """Return the learning rate of a step, counted from 0."""
    if step < schedule.warmup:
        return schedule.peak_rate * (step + 1) / schedule.warmup
    decayed = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.peak_rate * 0.5 * (1 + math.cos(math.pi * decayed))


def make_optimizers(model: nn.Module, schedule: Schedule) -> Optimizers:
    """Create Muon (arXiv 2502.16982) for the layers' matrices and AdamW (arXiv 1711.05101) for the rest.

    Muon makes the update of a matrix equally large in all directions. Trained from scratch, this model
    leaves its first plateau in half the steps that AdamW needs. Embeddings, norms and biases are not linear
    maps, so AdamW trains them.
    """
    matrices: tuple[list[Tensor], list[Tensor]] = ([], [])  # outside the vision tower, in the vision tower
    others: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, weight in model.named_parameters():
        is_matrix = weight.ndim == 2 and not any(part in name for part in EMBEDDINGS)
        (matrices if is_matrix else others)[name.startswith(TOWER)].append(weight)
    muon, adamw = (
        [{"params": params, "tower": tower} for tower, params in enumerate(groups)]
        for groups in (matrices, others)
    )
    return (
        torch.optim.Muon(
            muon, schedule.peak_rate, weight_decay=schedule.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(adamw, schedule.peak_rate, BETAS, weight_decay=0.0, fused=True),
    )


def run_stage(
    name: str, folder: Path, model: nn.Module, schedule: Schedule, step_loss: StepLoss, measure: Measure
) -> None:
    """Train a model through a stage; continue from the saved state of an earlier run, if any.

    Writes NAME.csv, with a row per measurement, and NAME.resume.pt.

    Args:
        name: name of the stage.
        folder: an existing folder for both files.
        model: the model, trained in place and left in evaluation mode.
        schedule: steps and learning rates.
        step_loss: computes the loss of a step.
        measure: computes metrics on held-out scenes, each between 0 and 1.
    """
    optimizers = make_optimizers(model, schedule)
    state, log = folder / f"{name}.resume.pt", folder / f"{name}.csv"
    progress = restore_state(state, model, optimizers)
    drop_rows_after(log, progress.steps)
    metrics, started = dict[str, float](), time.perf_counter() - progress.seconds
    with tqdm(
        total=schedule.steps, initial=progress.steps, desc=name, file=sys.stderr, mininterval=5.0
    ) as bar:
        for step in range(progress.steps, schedule.steps):
            loss = _train_step(step, schedule, model, optimizers, step_loss)
            smooth = loss if progress.loss is None else LOSS_DECAY * progress.loss + (1 - LOSS_DECAY) * loss
            progress = StageProgress(step + 1, smooth, time.perf_counter() - started)
            is_last = progress.steps == schedule.steps
            if progress.steps % schedule.measure_every == 0 or is_last:
                model.eval()
                metrics = dict(measure())
                row = {"step": progress.steps, "loss": smooth, "seconds": progress.seconds}
                append_row(log, row | metrics)
            if progress.steps % schedule.save_every == 0 or is_last:
                save_state(state, progress, model, optimizers)
            shown = list(({"loss": smooth} | metrics).items())[:MAX_SHOWN]
            bar.set_postfix({metric: f"{value:.3f}" for metric, value in shown}, refresh=False)
            bar.update()
    model.eval()


def _train_step(
    step: int, schedule: Schedule, model: nn.Module, optimizers: Optimizers, step_loss: StepLoss
) -> float:
    """Do one optimizer step and return its loss."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            share = tower_rate_share(step, schedule) if group["tower"] else 1.0
            group["lr"] = learning_rate(step, schedule) * share
    model.train()
    loss = step_loss(step)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), schedule.max_gradient_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())
