"""An open checkpoint with everything an export reads from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from paligemma_onnx.model.checkpoint.checkpoint import Checkpoint
from paligemma_onnx.model.checkpoint.load import open_checkpoint
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.mask_decoder import MaskDecoder
from paligemma_onnx.model.rotary import inverse_frequencies

from .graphs.cuda_weights import PackedCheckpoint
from .precisions import PRECISIONS
from .quantization.channel_scaling import ScaledCheckpoint
from .sources.mask_decoder_npz import MASK_DECODER, read_mask_decoder
from .sources.tensor_source import TensorSource


@dataclass(frozen=True)
class Source:
    """An open checkpoint with what the manifest says of it."""

    folder: Path
    config: PaliGemmaConfig
    checkpoint: Checkpoint
    constants: dict[str, torch.Tensor]  # in the graphs, but no weights of the checkpoint
    mask_decoder: MaskDecoder | None

    def weights(self, precision: str) -> TensorSource:
        """The weights that a precision stores: rounded ones come from channels of a common range."""
        recipe = PRECISIONS[precision]
        if recipe.half is not None:
            return PackedCheckpoint(self.checkpoint, self.config.text_config)
        return self._balanced if recipe.rounds else self.checkpoint

    @cached_property
    def _balanced(self) -> ScaledCheckpoint:
        """One for writing and for checking: its factors take a pass over all weights."""
        return ScaledCheckpoint(self.checkpoint, self.config)


def open_source(folder: Path, adapter: Path | None, mask_decoder: Path | None = None) -> Source:
    """Open a checkpoint and the mask decoder that is given or lies beside it; raises CheckpointError."""
    config, checkpoint = open_checkpoint(folder, adapter)
    text = config.text_config
    frequencies = inverse_frequencies(text.head_dim, text.rope_theta)
    constants = {"language_model.frequencies": frequencies}
    beside = folder / MASK_DECODER
    if mask_decoder is None and not beside.exists():
        return Source(folder, config, checkpoint, constants, None)
    masks = read_mask_decoder(mask_decoder or beside)
    weights = {f"mask_decoder.{name}": tensor for name, tensor in masks.state_dict().items()}
    return Source(folder, config, checkpoint, constants | weights, masks)
