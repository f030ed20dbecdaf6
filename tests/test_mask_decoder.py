"""The mask decoder against an implementation in NumPy that works from the definition of each layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from paligemma_onnx.export.mask_decoder_file import read_mask_decoder
from paligemma_onnx.model.errors import CheckpointError
from paligemma_onnx.model.mask_decoder import MaskDecoder

Array = NDArray[np.float64]
Weights = dict[str, NDArray[np.float32]]
# Blocks of the published file: layer numbers of its nn.Sequential.
RESIDUAL, TRANSPOSED, LAST = (2, 3), (4, 6, 8, 10), 12


def random_weights(codebook_width: int, width: int) -> Weights:
    """Arrays of the names and shapes of `vae-oid.npz` (there: 512 and 128)."""
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
    """Each output pixel is a weighted sum of the pixels around it: [C, H, W] -> [D, H, W]."""
    kernel, bias = weights[f"{name}.weight"].astype(float), weights[f"{name}.bias"].astype(float)
    reach = kernel.shape[2] // 2
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    out = np.zeros((len(kernel), *x.shape[1:]))
    for dy in range(kernel.shape[2]):
        for dx in range(kernel.shape[3]):
            part = padded[:, dy : dy + x.shape[1], dx : dx + x.shape[2]]
            out += np.einsum("dc,chw->dhw", kernel[:, :, dy, dx], part)
    return out + bias[:, None, None]


def transposed_convolution(x: Array, weights: Weights, name: str) -> Array:
    """Each input pixel adds a 4 x 4 stamp at twice its place less one: [C, H, W] -> [D, 2H, 2W]."""
    kernel, bias = weights[f"{name}.weight"].astype(float), weights[f"{name}.bias"].astype(float)
    height, width = x.shape[1:]
    out = np.zeros((kernel.shape[1], 2 * height + 2, 2 * width + 2))
    for row in range(height):
        for column in range(width):
            stamp = np.einsum("cdyx,c->dyx", kernel, x[:, row, column])
            out[:, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += stamp
    return out[:, 1:-1, 1:-1] + bias[:, None, None]


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def expected(weights: Weights, codes: NDArray[np.int64]) -> Array:
    x = weights["_vq_vae._embedding"].astype(float)[codes].reshape(4, 4, -1).transpose(2, 0, 1)
    x = relu(convolution(x, weights, "decoder.0"))
    for block in RESIDUAL:
        inner = relu(convolution(x, weights, f"decoder.{block}.net.0"))
        inner = relu(convolution(inner, weights, f"decoder.{block}.net.2"))
        x = x + convolution(inner, weights, f"decoder.{block}.net.4")
    for layer in TRANSPOSED:
        x = relu(transposed_convolution(x, weights, f"decoder.{layer}"))
    return convolution(x, weights, f"decoder.{LAST}")[0]


@pytest.mark.parametrize(("codebook_width", "width"), [(32, 16), (512, 128)], ids=["small", "published"])
def test_the_decoder_is_numpy(tmp_path: Path, codebook_width: int, width: int) -> None:
    weights = random_weights(codebook_width, width)
    np.savez(tmp_path / "vae.npz", **weights, **{"encoder.0.weight": np.zeros(3)}, allow_pickle=False)
    decoder = read_mask_decoder(tmp_path / "vae.npz")
    codes = np.random.default_rng(1).integers(128, size=(2, 16))
    maps = decoder(torch.from_numpy(codes)).numpy()
    assert maps.shape == (2, 64, 64)
    for row, one in zip(codes, maps, strict=True):
        right = expected(weights, row)
        # Float32 sums of up to 4,608 terms; measured: up to 5e-7 of the largest value.
        assert np.abs(one - right).max() <= 1e-5 * np.abs(right).max()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda weights: weights.pop("decoder.8.bias"), "decoder.8.bias"),
        (lambda weights: weights.pop("decoder.0.weight"), "decoder.0.weight"),
        (lambda weights: weights.update({"decoder.99.bias": np.zeros(1, np.float32)}), "decoder.99.bias"),
        (
            lambda weights: weights.update({"decoder.4.weight": np.zeros((3, 3), np.float32)}),
            "decoder.4.weight",
        ),
    ],
    ids=["missing", "first missing", "extra", "misshapen"],
)
def test_a_file_of_another_model_is_refused(tmp_path: Path, spoil: object, complaint: str) -> None:
    weights = random_weights(32, 16)
    spoil(weights)  # type: ignore[operator]
    np.savez(tmp_path / "vae.npz", **weights, allow_pickle=False)
    with pytest.raises(CheckpointError, match=complaint) as error:
        read_mask_decoder(tmp_path / "vae.npz")
    assert "\n" not in str(error.value)


def test_what_is_no_file_of_arrays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.npz"):
        read_mask_decoder(tmp_path / "absent.npz")
    for content in (b"", b"no archive", b"PK\x03\x04 cut short"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.npz"):
            read_mask_decoder(tmp_path / "bad.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(CheckpointError, match=r"array\.npy"):
        read_mask_decoder(tmp_path / "array.npy")
    np.savez(tmp_path / "objects.npz", allow_pickle=True, **{"decoder.0.weight": np.array([{}], object)})
    with pytest.raises(CheckpointError, match="plain arrays"):
        read_mask_decoder(tmp_path / "objects.npz")


def test_parameters_are_the_published_ones() -> None:
    names = {name for name, _ in MaskDecoder(512, 128).named_parameters()}
    assert names == random_weights(32, 16).keys()
