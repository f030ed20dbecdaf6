"""Read a mask decoder from an `.npz` file whose arrays are named as in the published `vae-oid.npz`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.mask_decoder import MaskDecoder

MASK_DECODER = "mask_decoder.npz"  # file name in the folder of a checkpoint
# Prefixes of published arrays that decoding does not need: the encoder, and the running means that
# updated the codebook in training.
UNUSED = ("encoder.", "_vq_vae._ema_")


def read_mask_decoder(path: Path) -> MaskDecoder:
    """Read a file and return its mask decoder with float32 parameters.

    Raises:
        CheckpointError: the file is missing, damaged, or does not contain a mask decoder.
    """
    try:
        # np.load(path) would not close the file of a damaged archive. A .npy file raises TypeError.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            weights = {
                name: _float_tensor(arrays[name]) for name in arrays.files if not name.startswith(UNUSED)
            }
    except OSError as error:
        reason = error.strerror or "it is not an .npz file"
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    except Exception:  # on damaged bytes, the readers of archives and headers raise errors of many classes
        raise CheckpointError(f"{path}: is damaged, or not an .npz file of plain arrays of floats") from None
    try:
        return MaskDecoder.from_weights(weights)
    except ValueError as error:
        raise CheckpointError(f"{path}: is not a mask decoder: {error}") from None


def _float_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return an array as a tensor in the byte order of this machine.

    Raises:
        TypeError: the array does not contain floating-point numbers.
    """
    if array.dtype.kind != "f":
        raise TypeError(array.dtype)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
