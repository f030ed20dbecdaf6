"""PaliGemma with a half-precision bundle for a GPU, run on the CPU with the same buffer pool and bindings."""

from __future__ import annotations

from pathlib import Path

from paligemma_onnx.export.validation.float32_emulation import open_float32_emulation
from paligemma_onnx.runtime import PaliGemma
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.engine.session import open_session
from paligemma_onnx.runtime.graphs.buffer_pool import BufferPool
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer


def open_on_cpu(bundle: Path) -> PaliGemma:
    """Open a bundle as `PaliGemma.load` does on a GPU, except that the graphs run on the CPU."""
    manifest, placement = read_manifest(bundle), choose_placement("cpu", None)
    graphs = manifest.graphs
    vision, prefill, decode = (
        open_float32_emulation(bundle, graph, placement)
        for graph in (graphs.vision_encoder, graphs.prefill, graphs.decode)
    )
    masks = (
        None
        if graphs.mask_decoder is None
        else open_session(bundle, graphs.mask_decoder, manifest, placement)
    )
    pool = BufferPool(manifest, placement, decode.io_binding)
    runner = OnnxModelRunner(None, manifest, placement, vision, prefill, decode, masks, buffer_pool=pool)
    return PaliGemma(manifest, PromptTokenizer.load(bundle / manifest.tokens.file), runner, 0.0)
