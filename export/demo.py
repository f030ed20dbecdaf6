"""The whole path in a minute, offline: a checkpoint, its bundle, an answer about a shipped drawing."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import click

from paligemma_onnx.model.config import PaliGemmaConfig, VisionConfig
from paligemma_onnx.model.presets import tiny_gemma2
from paligemma_onnx.runtime.paligemma import PaliGemma

from .exporter import ExportRequest, Progress, export
from .sample_checkpoint import LOCATIONS, SEGMENTS, write_sample_checkpoint
from .self_check import self_check

DRAWING = "scene.png"
PROMPTS = ("caption en", "answer en how many shapes are there?")
MAX_NEW_TOKENS = 24
PIECES = 600  # of the sample tokenizer
UNTRAINED_ROWS = 64  # of the table, from `<image>` on, as the published checkpoints have


def demo_config() -> PaliGemmaConfig:
    """PaliGemma 2 in small: a 224-pixel picture becomes 256 tokens, as in the published model."""
    image_token = PIECES + LOCATIONS + SEGMENTS
    text = replace(
        tiny_gemma2().text_config,
        vocab_size=image_token + UNTRAINED_ROWS,
        attn_logit_softcapping=50.0,  # Gemma 2's own caps: words must differ by more than rounding
        final_logit_softcapping=30.0,
    )
    vision = VisionConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=224,
        patch_size=14,
    )
    return PaliGemmaConfig(vision, text, image_token)


def run_demo(output: Path | None, progress: Progress) -> None:
    """Make a checkpoint and its bundle under `output`, or in a folder that is removed, and ask it."""
    with (
        tempfile.TemporaryDirectory(prefix="paligemma-onnx-")
        if output is None
        else nullcontext(output) as kept
    ):
        checkpoint, bundle = Path(kept) / "checkpoint", Path(kept) / "bundle"
        progress.stage("making a small checkpoint with random weights")
        write_sample_checkpoint(demo_config(), checkpoint)

        export(ExportRequest(checkpoint, bundle), progress, partial(self_check, progress=progress.stage))
        progress.stage("asking about the drawing")
        model = PaliGemma.load(bundle)
        with as_file(files("paligemma_onnx.export") / DRAWING) as drawing:
            for prompt in PROMPTS:
                answer = model.generate(drawing, prompt, max_new_tokens=MAX_NEW_TOKENS)
                click.echo(f"{prompt!r}: {answer.text!r}")
        click.echo("The weights are random, and so are the words. The path they came by is the real one.")
