"""An open checkpoint with everything an export reads from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.model.checkpoint.checkpoint import Checkpoint
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.checkpoint.load import open_checkpoint
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.mask_decoder import MaskDecoder
from paligemma_onnx.model.rotary import inverse_frequencies
from paligemma_onnx.runtime.bundle.schema import BaseWeights
from paligemma_onnx.runtime.errors import OptionError

from .graphs.cuda_weights import CudaCheckpoint
from .graphs.packed_weights import PackedCheckpoint
from .graphs.prefix_or_step import count_folded_heads
from .graphs.rotary_tables import rotation_tables
from .precisions import PRECISIONS
from .quantization.channel_scaling import ScaledCheckpoint
from .sources.jax_checkpoint import NPZ, open_jax_checkpoint
from .sources.mask_decoder_npz import MASK_DECODER, read_mask_decoder
from .sources.tensor_source import TensorSource
from .sources.tokenizer_file import TOKENIZER, TOKENIZER_SOURCE, open_tokenizer
from .sources.wrong_input import refuse_inner_adapter


@dataclass(frozen=True)
class Source:
    """An open checkpoint, its configuration, and the mask decoder if the export includes a mask decoder."""

    path: Path  # the folder of the checkpoint, or an .npz archive
    tokenizer: Path  # tokenizer.json
    config: PaliGemmaConfig
    checkpoint: Checkpoint
    constants: dict[str, torch.Tensor]  # tensors that graphs read and the checkpoint does not store
    mask_decoder: MaskDecoder | None

    def weights(self, precision_name: str) -> TensorSource:
        """Return the weights to store: as in the checkpoint, packed, or with scaled channels, or both."""
        precision, text = PRECISIONS[precision_name], self.config.text_config
        if precision.half_dtype is not None:
            return CudaCheckpoint(self.checkpoint, text)
        weights = self.unpacked_weights(precision_name)
        if precision.is_in_place_float32:
            return PackedCheckpoint(weights, text, count_folded_heads(text))
        return weights

    def unpacked_weights(self, precision_name: str) -> TensorSource:
        """Return the weights as in the checkpoint, with scaled channels if activations are quantised."""
        return self._scaled if PRECISIONS[precision_name].quantizes_activations else self.checkpoint

    @cached_property
    def _scaled(self) -> ScaledCheckpoint:
        """The checkpoint with scaled channels. Export and check share it: computing its factors is slow,
        because every weight is read.
        """
        return ScaledCheckpoint(self.checkpoint, self.config)


def open_source(
    path: Path,
    adapters: Sequence[WeightedAdapter] = (),
    mask_decoder: Path | None = None,
    tokenizer: Path | None = None,
    config_file: Path | None = None,
    base_weights: BaseWeights = "stored",
) -> Source:
    """Return an open checkpoint.

    Args:
        path: folder of the checkpoint, or a JAX checkpoint in an .npz archive.
        adapters: folders of PEFT adapters to merge into the weights, with their weights.
        mask_decoder: weights of the mask decoder; None: `mask_decoder.npz` in the folder if this file exists.
        tokenizer: tokenizer.json; only for an archive, which holds no tokenizer.
        config_file: config.json; only for an archive. None: derived from the shapes of the arrays.
        base_weights: what linear layers are rounded to before adapters are merged.

    Raises:
        CheckpointError: the checkpoint, an adapter, the tokenizer or the mask decoder is incomplete, damaged
            or of another model; or the folder also holds an adapter, and `adapters` is empty.
        OptionError: an archive without a tokenizer, or a folder with a tokenizer or a configuration.
    """
    if path.suffix == NPZ and not path.is_dir():
        tokenizer = _check_tokenizer(path, tokenizer)
        image_token = open_tokenizer(tokenizer).image_id
        config, checkpoint = open_jax_checkpoint(path, image_token, config_file, adapters)
    elif tokenizer is None and config_file is None:
        if not adapters:
            refuse_inner_adapter(path)
        tokenizer = path / TOKENIZER
        config, checkpoint = open_checkpoint(path, adapters)
    else:
        raise OptionError(f"{path}: --tokenizer and --config are for .npz archives; put both into the folder")
    if base_weights != "stored":
        checkpoint = replace(checkpoint, nf4=base_weights)
    text = config.text_config
    constants = {"language_model.frequencies": inverse_frequencies(text.head_dim, text.rope_theta)}
    constants |= rotation_tables(text)
    if mask_decoder is None and (path / MASK_DECODER).exists():
        mask_decoder = path / MASK_DECODER
    if mask_decoder is None:
        return Source(path, tokenizer, config, checkpoint, constants, None)
    masks = read_mask_decoder(mask_decoder)
    weights = {f"mask_decoder.{name}": tensor for name, tensor in masks.state_dict().items()}
    return Source(path, tokenizer, config, checkpoint, constants | weights, masks)


def _check_tokenizer(path: Path, tokenizer: Path | None) -> Path:
    """Return the tokenizer of an archive; raise an error that says how to get tokenizer.json."""
    remedy = f"take tokenizer.json from a repository of the model, such as {TOKENIZER_SOURCE}"
    if tokenizer is None:
        raise OptionError(f"{path}: holds no tokenizer; {remedy}, and give it as --tokenizer")
    if tokenizer.suffix == ".model":
        raise CheckpointError(f"{tokenizer}: is a SentencePiece model; only tokenizer.json is read: {remedy}")
    return tokenizer
