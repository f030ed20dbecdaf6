"""Reads a mask decoder from an `.npz` with the names of the published `vae-oid.npz`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.mask_decoder import MaskDecoder

MASK_DECODER = "mask_decoder.npz"  # its name where it lies beside a checkpoint's weights
ENCODER = "encoder."  # the published file holds the other half too, which nothing here needs
RUNNING_MEANS = ("_vq_vae._ema_",)  # and what moved its codebook while it was trained


def read_mask_decoder(path: Path) -> MaskDecoder:
    """Open a mask decoder.

    Raises:
        CheckpointError: the file is missing, damaged, or of another model.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:  # a single array is no context: TypeError
            weights = {
                name: _floats(arrays[name])
                for name in arrays.files
                if not name.startswith((ENCODER, *RUNNING_MEANS))
            }
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or 'it is no .npz file'})") from None
    except Exception:  # readers of archives and headers raise nearly every class there is over hostile bytes
        raise CheckpointError(f"{path}: is damaged or no .npz file of plain arrays of floats") from None
    try:
        return MaskDecoder.of(weights)
    except ValueError as error:
        raise CheckpointError(f"{path}: is no mask decoder: {error}") from None


def _floats(array: NDArray[Any]) -> torch.Tensor:
    """An array in this machine's byte order; raises TypeError where it holds no floating point numbers."""
    if array.dtype.kind != "f":
        raise TypeError(array.dtype)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
