"""What both stages share: the schedule, the log, the bar, and going on after a kill.

A step's data depends on its number alone, so a run that goes on from a saved step ends as one that never
stopped would, up to the order of floating-point sums.
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
from .training_state import Done, Optimizers, append_row, forget_after, restore, save

Step = Callable[[int], Tensor]  # number of the step -> its loss
Measure = Callable[[], Mapping[str, float]]  # figures on held-out scenes
TOWER = "vision_tower."  # names of its parameters begin so, in both stages
TABLES = ("embed_tokens", "position_embedding", "places", "probe")  # vectors by number, stored like matrices
BETAS = (0.9, 0.98)  # of AdamW: a shorter memory of squares than usual, as transformers are trained with
SHOWN = 4  # figures beside the bar: the loss and the first ones measured
STEADY = 0.98  # weight of the past in the loss that is shown


def tower_share(step: int, schedule: Schedule) -> float:
    """What share of the learning rate the vision tower gets.

    A decoder that knows nothing yet sends the tower gradients that mean nothing, and would undo what the
    tower has learned; so the tower waits, then follows slowly (arXiv 2407.07726, section 3.2.1).
    """
    return min(1.0, max(0.0, (step - schedule.tower_from) / schedule.tower_ramp))


def rate(step: int, schedule: Schedule) -> float:
    """Learning rate of a step, counted from 0."""
    if step < schedule.warmup:
        return schedule.peak_rate * (step + 1) / schedule.warmup
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.peak_rate * 0.5 * (1 + math.cos(math.pi * done))


def optimizers_for(model: nn.Module, schedule: Schedule) -> tuple[torch.optim.Optimizer, ...]:
    """Muon (arXiv 2502.16982) for the layers' matrices, AdamW (arXiv 1711.05101) for everything else.

    Muon makes every direction of a matrix's step equally long. From nothing, this model leaves its first
    plateau with it in half the steps that AdamW needs. Tables of vectors, norms and biases are no maps from a
    space to a space, and stay with AdamW.
    """
    matrices: tuple[list[Tensor], list[Tensor]] = ([], [])  # outside the vision tower, and in it
    rest: tuple[list[Tensor], list[Tensor]] = ([], [])
    for name, weight in model.named_parameters():
        is_table = any(part in name for part in TABLES)
        kind = matrices if weight.ndim == 2 and not is_table else rest
        kind[name.startswith(TOWER)].append(weight)
    muon, adamw = (
        [{"params": found, "tower": tower} for tower, found in enumerate(kind)] for kind in (matrices, rest)
    )
    return (
        torch.optim.Muon(
            muon, schedule.peak_rate, weight_decay=schedule.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(adamw, schedule.peak_rate, BETAS, weight_decay=0.0, fused=True),
    )


def run(
    name: str, folder: Path, model: nn.Module, schedule: Schedule, step_loss: Step, measure: Measure
) -> None:
    """Train a model through a stage, from where an earlier run was stopped if there was one.

    Writes NAME.csv (a row each time it measures) and NAME.resume.pt, both in `folder`.

    Args:
        name: of the stage.
        folder: exists.
        model: trained in place.
        schedule: how.
        step_loss: computes the loss of a step.
        measure: computes figures on held-out scenes, each between 0 and 1.
    """
    optimizers = optimizers_for(model, schedule)
    state, log = folder / f"{name}.resume.pt", folder / f"{name}.csv"
    done = restore(state, model, optimizers)
    forget_after(log, done.steps)
    figures, started = dict[str, float](), time.perf_counter() - done.seconds
    with tqdm(total=schedule.steps, initial=done.steps, desc=name, file=sys.stderr, mininterval=5.0) as bar:
        for step in range(done.steps, schedule.steps):
            loss = _take(step, schedule, model, optimizers, step_loss)
            smooth = loss if done.loss is None else STEADY * done.loss + (1 - STEADY) * loss
            done = Done(step + 1, smooth, time.perf_counter() - started)
            last = done.steps == schedule.steps
            if done.steps % schedule.measure_every == 0 or last:
                model.eval()
                figures = dict(measure())
                append_row(log, {"step": done.steps, "loss": smooth, "seconds": done.seconds} | figures)
            if done.steps % schedule.save_every == 0 or last:
                save(state, done, model, optimizers)
            shown = list(({"loss": smooth} | figures).items())[:SHOWN]
            bar.set_postfix({name: f"{value:.3f}" for name, value in shown}, refresh=False)
            bar.update()
    model.eval()


def _take(step: int, schedule: Schedule, model: nn.Module, optimizers: Optimizers, step_loss: Step) -> float:
    """One step; its loss."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            share = tower_share(step, schedule) if group["tower"] else 1.0
            group["lr"] = rate(step, schedule) * share
    model.train()
    loss = step_loss(step)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), schedule.largest_gradient)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())
