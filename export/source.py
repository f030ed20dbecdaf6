"""An open checkpoint with everything an export reads from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
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
    """An open checkpoint, its configuration, and the mask decoder if the export includes a mask decoder."""

    folder: Path
    config: PaliGemmaConfig
    checkpoint: Checkpoint
    constants: dict[str, torch.Tensor]  # tensors that graphs read and the checkpoint does not store
    mask_decoder: MaskDecoder | None

    def weights(self, precision_name: str) -> TensorSource:
        """Return the weights to store: as in the checkpoint, packed for CUDA, or with scaled channels."""
        precision = PRECISIONS[precision_name]
        if precision.half_dtype is not None:
            return PackedCheckpoint(self.checkpoint, self.config.text_config)
        return self._scaled if precision.quantizes_activations else self.checkpoint

    @cached_property
    def _scaled(self) -> ScaledCheckpoint:
        """The checkpoint with scaled channels. Export and check share it: computing its factors is slow,
        because every weight is read.
        """
        return ScaledCheckpoint(self.checkpoint, self.config)


def open_source(
    folder: Path, adapters: Sequence[WeightedAdapter] = (), mask_decoder: Path | None = None
) -> Source:
    """Return an open checkpoint.

    Args:
        folder: folder of the checkpoint.
        adapters: folders of PEFT adapters to merge into the weights, with their weights.
        mask_decoder: weights of the mask decoder; None: `mask_decoder.npz` in the folder if this file exists.

    Raises:
        CheckpointError: the checkpoint, an adapter or the mask decoder is incomplete, damaged or of another
            model.
    """
    config, checkpoint = open_checkpoint(folder, adapters)
    text = config.text_config
    constants = {"language_model.frequencies": inverse_frequencies(text.head_dim, text.rope_theta)}
    if mask_decoder is None and (folder / MASK_DECODER).exists():
        mask_decoder = folder / MASK_DECODER
    if mask_decoder is None:
        return Source(folder, config, checkpoint, constants, None)
    masks = read_mask_decoder(mask_decoder)
    weights = {f"mask_decoder.{name}": tensor for name, tensor in masks.state_dict().items()}
    return Source(folder, config, checkpoint, constants | weights, masks)
