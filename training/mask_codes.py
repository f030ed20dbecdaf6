"""The vector-quantised autoencoder of masks and its training (arXiv 1711.00937).

The encoder turns a 64 x 64 mask into a 4 x 4 grid of vectors, each computed from its 16 x 16 pixels and
their surroundings. Each vector is replaced by the nearest of 128 codebook vectors, and the decoder
reconstructs the mask from these. The index of the nearest vector is the code that PaliGemma learns to write
as a `<seg>` token.

The decoder is `MaskDecoder` in model/mask_decoder.py, which ships with the model; the encoder is needed only
here. Masks are packed into bits, 8 pixels per byte, where there are many: uint8[masks, 512].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from paligemma_onnx.model.mask_decoder import CODES, SIDE, MaskDecoder

from .scenes import Box
from .shapes import Mask, UInt8Array

COMMITMENT = 0.25  # weight of the commitment loss (arXiv 1711.00937, section 3.2)
EMA_DECAY = 0.99  # of the running means that update the codebook (arXiv 1711.00937, appendix A.1)
MIN_USAGE = (
    0.03  # vectors per code, relative to an equal share, below which a code is reset to one of the vectors
)


@dataclass(frozen=True)
class MaskRecipe:
    """Sizes and schedule of the mask autoencoder."""

    codebook_width: int = 64
    width: int = 32  # channels of the first convolution of the encoder and the last but one of the decoder
    steps: int = 1500
    batch: int = 128  # masks per step
    peak_rate: float = 2e-3


def crop_mask(mask: Mask, box: Box) -> Mask:
    """Crop a mask to its box and resize it: bool[height, width] -> bool[64, 64]."""
    left, top, right, bottom = box
    crop = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    return np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) >= 128


def unpack_masks(packed: UInt8Array) -> npt.NDArray[np.bool_]:
    """Unpack masks from bits: uint8[masks, 512] -> bool[masks, 64, 64]."""
    return np.unpackbits(packed, axis=1).reshape(-1, SIDE, SIDE).astype(np.bool_)


class MaskEncoder(nn.Module):
    """Convolutional encoder of masks."""

    def __init__(self, codebook_width: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=4),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=4),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, codebook_width, 1),
        )

    def forward(self, masks: Tensor) -> Tensor:
        """Encode masks of +1 and -1: float[masks, 64, 64] -> float[masks, codebook_width, 4, 4]."""
        out: Tensor = self.net(masks[:, None])
        return out


class MaskAutoencoder(nn.Module):
    """Encoder, codebook and decoder.

    The codebook is not trained by gradients: each code is the running mean of the vectors assigned to it.
    """

    sizes: Tensor  # float32[128], running mean of the number of vectors per code and step
    sums: Tensor  # float32[128, codebook_width], running mean of the sum of these vectors

    def __init__(self, recipe: MaskRecipe) -> None:
        super().__init__()
        self.encoder = MaskEncoder(recipe.codebook_width, recipe.width)
        self.decoder = MaskDecoder(recipe.codebook_width, recipe.width)
        nn.init.normal_(self.codebook)
        self.codebook.requires_grad_(False)
        self.register_buffer("sizes", torch.ones(CODES))
        self.register_buffer("sums", self.codebook.detach().clone())

    @property
    def codebook(self) -> Tensor:
        """The decoder's codebook: float32[128, codebook_width]."""
        return self.decoder._vq_vae._embedding

    def nearest_codes(self, vectors: Tensor) -> Tensor:
        """Return the code nearest to each vector: float[masks, codebook_width, 4, 4] -> int64[masks, 16]."""
        flat = vectors.flatten(2).transpose(1, 2)  # [masks, 16, codebook_width]
        return torch.cdist(flat, self.codebook[None].expand(len(flat), -1, -1)).argmin(dim=-1)

    def loss(self, masks: Tensor) -> Tensor:
        """Update the codebook and return the reconstruction loss plus the weighted commitment loss.

        Args:
            masks: float[masks, 64, 64] of +1 and -1.

        Returns:
            float32[].
        """
        vectors = self.encoder(masks)
        with torch.no_grad():
            codes = self.nearest_codes(vectors)
            self._update_codebook(vectors.flatten(2).transpose(1, 2).flatten(0, 1), codes.flatten())
        quantized = self.decoder._vq_vae(codes)
        commitment = F.mse_loss(vectors, quantized)
        # Straight-through estimator: the forward pass uses the code's vector, the gradient goes to the
        # encoder.
        straight_through = vectors + (quantized - vectors).detach()
        reconstruction = F.mse_loss(self.decoder.decode_vectors(straight_through), masks)
        return reconstruction + COMMITMENT * commitment

    def _update_codebook(self, vectors: Tensor, codes: Tensor) -> None:
        """Move each code towards its vectors: float[vectors, codebook_width], int64[vectors]."""
        assigned = F.one_hot(codes, CODES).to(vectors.dtype)
        self.sizes.lerp_(assigned.sum(dim=0), 1 - EMA_DECAY)
        self.sums.lerp_(assigned.T @ vectors, 1 - EMA_DECAY)
        unused = self.sizes < MIN_USAGE * len(codes) / CODES
        if unused.any():
            replacements = vectors[torch.randint(len(vectors), (int(unused.sum()),))]
            self.sizes[unused] = 1.0
            self.sums[unused] = replacements
        self.codebook.copy_(self.sums / self.sizes[:, None])

    @torch.inference_mode()
    def encode(self, packed: UInt8Array, batch: int = 1024) -> UInt8Array:
        """Encode packed masks, `batch` at a time: uint8[masks, 512] -> uint8[masks, 16]."""
        codes = [
            self.nearest_codes(self.encoder(_signed_masks(packed[start : start + batch])))
            for start in range(0, len(packed), batch)
        ]
        return torch.cat(codes).to(torch.uint8).numpy()


def _signed_masks(packed: UInt8Array) -> Tensor:
    """Unpack masks as +1 and -1: uint8[masks, 512] -> float32[masks, 64, 64]."""
    return torch.from_numpy(unpack_masks(packed)).float() * 2 - 1


def train_mask_autoencoder(
    packed: UInt8Array, recipe: MaskRecipe, seed: int, on_step: Callable[[float], object]
) -> MaskAutoencoder:
    """Train an autoencoder on packed masks.

    Args:
        packed: uint8[masks, 512].
        recipe: sizes and schedule.
        seed: of the initial weights, the batches and the codebook's resets.
        on_step: called with the loss after each step.
    """
    torch.manual_seed(seed)
    model = MaskAutoencoder(recipe)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], recipe.peak_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, recipe.steps)
    for indices in _batches(len(packed), recipe, seed):
        loss = model.loss(_signed_masks(packed[indices]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        on_step(float(loss.detach()))
    return model.eval()


def _batches(count: int, recipe: MaskRecipe, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    rng = np.random.RandomState(seed)
    for _ in range(recipe.steps):
        yield rng.randint(count, size=recipe.batch)


@torch.inference_mode()
def mean_iou(model: MaskAutoencoder, packed: UInt8Array) -> float:
    """Return the mean IoU of masks with their reconstructions, an upper bound for the trained PaliGemma.

    Args:
        model: a trained autoencoder.
        packed: uint8[masks, 512].
    """
    masks = torch.from_numpy(unpack_masks(packed))
    reconstructed = model.decoder(torch.from_numpy(model.encode(packed)).long()) > 0
    intersection, union = (masks & reconstructed).sum((1, 2)), (masks | reconstructed).sum((1, 2))
    return float((intersection / union).mean())
