"""The mask decoder in float64 NumPy, written from the definition of each layer, and random weights for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, NDArray[np.float32]]
# Indices of the layers in the nn.Sequential of the published weights.
RESIDUAL, TRANSPOSED, LAST = (2, 3), (4, 6, 8, 10), 12


def random_weights(codebook_width: int, width: int) -> Weights:
    """Return random arrays with the names and shapes of `vae-oid.npz`, whose widths are 512 and 128."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"_vq_vae._embedding": (128, codebook_width)}
    shapes |= {"decoder.0.weight": (width, codebook_width, 1, 1), "decoder.0.bias": (width,)}
    for block in RESIDUAL:
        for layer, side in ((0, 3), (2, 3), (4, 1)):
            shapes[f"decoder.{block}.net.{layer}.weight"] = (width, width, side, side)
            shapes[f"decoder.{block}.net.{layer}.bias"] = (width,)
    wide = width
    for doubling, layer in enumerate(TRANSPOSED):
        narrow = width >> doubling
        shapes[f"decoder.{layer}.weight"], shapes[f"decoder.{layer}.bias"] = (wide, narrow, 4, 4), (narrow,)
        wide = narrow
    shapes[f"decoder.{LAST}.weight"], shapes[f"decoder.{LAST}.bias"] = (1, wide, 1, 1), (1,)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def convolution(x: Array, weights: Weights, name: str) -> Array:
    """Convolve without stride: [in, height, width] -> [out, height, width].

    Each output pixel is a weighted sum of the pixels around it.
    """
    kernel, bias = weights[f"{name}.weight"].astype(float), weights[f"{name}.bias"].astype(float)
    reach = kernel.shape[2] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    out = np.zeros((len(kernel), *x.shape[1:]))
    for dy in range(kernel.shape[2]):
        for dx in range(kernel.shape[3]):
            part = padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]
            out += np.einsum("oi,ihw->ohw", kernel[:, :, dy, dx], part)
    return out + bias[:, None, None]


def transposed_convolution(x: Array, weights: Weights, name: str) -> Array:
    """Upsample by two: [in, height, width] -> [out, 2 * height, 2 * width].

    Each input pixel adds a 4 x 4 stamp whose corner is at twice the pixel's position minus one.
    """
    kernel, bias = weights[f"{name}.weight"].astype(float), weights[f"{name}.bias"].astype(float)
    height, width = x.shape[1:]
    out = np.zeros((kernel.shape[1], 2 * height + 2, 2 * width + 2))
    for row in range(height):
        for column in range(width):
            stamp = np.einsum("ioyx,i->oyx", kernel, x[:, row, column])
            out[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    return out[:, 1:-1, 1:-1] + bias[:, None, None]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def decode_mask(weights: Weights, codes: NDArray[np.int64]) -> Array:
    """Return the mask of one object: int64[16] -> float64[64, 64]."""
    x = weights["_vq_vae._embedding"].astype(float)[codes].reshape(4, 4, -1).transpose(2, 0, 1)
    x = relu(convolution(x, weights, "decoder.0"))
    for block in RESIDUAL:
        inner = relu(convolution(x, weights, f"decoder.{block}.net.0"))
        inner = relu(convolution(inner, weights, f"decoder.{block}.net.2"))
        x = x + convolution(inner, weights, f"decoder.{block}.net.4")
    for layer in TRANSPOSED:
        x = relu(transposed_convolution(x, weights, f"decoder.{layer}"))
    return convolution(x, weights, f"decoder.{LAST}")[0]
