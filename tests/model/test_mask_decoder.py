"""The mask decoder against an implementation in NumPy that follows the definition of each layer."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy_mask_decoder import decode_mask, random_weights

from paligemma_onnx.export.sources.mask_decoder_npz import read_mask_decoder
from paligemma_onnx.model.checkpoint.errors import CheckpointError
from paligemma_onnx.model.mask_decoder import MaskDecoder


@pytest.mark.parametrize(("codebook_width", "width"), [(32, 16), (512, 128)], ids=["small", "published"])
def test_the_decoder_is_numpy(tmp_path: Path, codebook_width: int, width: int) -> None:
    weights = random_weights(codebook_width, width)
    np.savez(tmp_path / "vae.npz", **weights, **{"encoder.0.weight": np.zeros(3)}, allow_pickle=False)
    decoder = read_mask_decoder(tmp_path / "vae.npz")
    codes = np.random.default_rng(1).integers(128, size=(2, 16))
    maps = decoder(torch.from_numpy(codes)).numpy()
    assert maps.shape == (2, 64, 64)
    for row, actual in zip(codes, maps, strict=True):
        expected = decode_mask(weights, row)
        # Float32 sums of up to 4,608 terms; measured: up to 5e-7 of the largest value.
        assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("damage", "parameter"),
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
def test_a_file_of_another_model_is_refused(tmp_path: Path, damage: object, parameter: str) -> None:
    weights = random_weights(32, 16)
    damage(weights)  # type: ignore[operator]
    np.savez(tmp_path / "vae.npz", **weights, allow_pickle=False)
    with pytest.raises(CheckpointError, match=parameter) as error:
        read_mask_decoder(tmp_path / "vae.npz")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.complex64, np.int8, np.bool_, np.uint16])
def test_numbers_of_another_kind_are_refused(tmp_path: Path, dtype: type) -> None:
    weights = random_weights(32, 16)
    np.savez(tmp_path / "vae.npz", **{name: array.astype(dtype) for name, array in weights.items()})
    with pytest.raises(CheckpointError, match="plain arrays of floats"):
        read_mask_decoder(tmp_path / "vae.npz")


@pytest.mark.parametrize("dtype", [">f4", "f2", "f8"])
def test_floats_of_every_width_and_order_are_taken(tmp_path: Path, dtype: str) -> None:
    weights = {name: array.astype(np.float16).astype(dtype) for name, array in random_weights(32, 16).items()}
    np.savez(tmp_path / "vae.npz", allow_pickle=False, **weights)
    decoder = read_mask_decoder(tmp_path / "vae.npz")
    for name, weight in decoder.state_dict().items():
        assert weight.dtype == torch.float32
        assert np.array_equal(weight.numpy(), weights[name].astype(np.float32))


def test_a_width_that_a_file_of_kilobytes_asks_for_costs_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", **{"decoder.0.weight": np.zeros((20_000, 1, 1, 1), np.float32)})
    with pytest.raises(CheckpointError, match=r"is not a mask decoder: _vq_vae\._embedding is missing"):
        read_mask_decoder(tmp_path / "wide.npz")


@pytest.mark.slow
def test_flipped_bytes_are_one_error(tmp_path: Path) -> None:
    """With one bit flipped anywhere, the file is either read or refused by CheckpointError."""
    rng = np.random.default_rng(0)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "whole.npz", **random_weights(8, 8))
        whole = (tmp_path / "whole.npz").read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
            (tmp_path / "bad.npz").write_bytes(damaged)
            with suppress(CheckpointError):
                read_mask_decoder(tmp_path / "bad.npz")


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
