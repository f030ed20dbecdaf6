"""The other half of the mask autoencoder, and how both are trained (arXiv 1711.00937).

The encoder turns a 64 x 64 mask into a 4 x 4 grid of vectors, each from its own 16 x 16 pixels and a little
around them; each vector is replaced by the nearest of 128, and the decoder paints the mask from these. The
number of the nearest vector is the code that PaliGemma learns to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma_onnx.model.mask_decoder import CODES, MaskDecoder

from .rendered_dataset import unpacked
from .shapes import Levels

PULL = 0.25  # weight of the term that keeps the encoder near its code (arXiv 1711.00937, section 3.2)
MEMORY = 0.99  # decay of the running means that move the codebook (arXiv 1711.00937, appendix A.1)
ALIVE = 0.03  # of a fair share of the vectors; a code that gets fewer starts again at one of them


@dataclass(frozen=True)
class MaskRecipe:
    """Sizes and schedule."""

    codebook_width: int = 64
    width: int = 32
    steps: int = 1500
    batch: int = 128  # masks
    peak_rate: float = 2e-3


class MaskEncoder(nn.Module):
    """bool[B, 64, 64] as +-1 -> float[B, C, 4, 4]."""

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
        """float[B, 64, 64] -> float[B, C, 4, 4]."""
        out: Tensor = self.net(masks[:, None])
        return out


class MaskAutoencoder(nn.Module):
    """Encoder, codebook and decoder; the codebook moves with running means of what falls to each code."""

    sizes: Tensor
    sums: Tensor

    def __init__(self, recipe: MaskRecipe) -> None:
        super().__init__()
        self.encoder = MaskEncoder(recipe.codebook_width, recipe.width)
        self.decoder = MaskDecoder(recipe.codebook_width, recipe.width)
        codebook = self.decoder._vq_vae._embedding
        nn.init.normal_(codebook)
        codebook.requires_grad_(False)
        self.register_buffer("sizes", torch.ones(CODES))
        self.register_buffer("sums", codebook.detach().clone())

    @property
    def codebook(self) -> Tensor:
        """float[128, C]."""
        return self.decoder._vq_vae._embedding

    def codes(self, vectors: Tensor) -> Tensor:
        """The nearest code of each vector: float[B, C, 4, 4] -> int64[B, 16]."""
        flat = vectors.flatten(2).transpose(1, 2)  # [B, 16, C]
        return torch.cdist(flat, self.codebook[None].expand(len(flat), -1, -1)).argmin(dim=-1)

    def loss(self, masks: Tensor) -> Tensor:
        """Reconstruction and commitment, and one move of the codebook: float[B, 64, 64] of +-1 -> float[]."""
        vectors = self.encoder(masks)
        with torch.no_grad():
            codes = self.codes(vectors)
            self._move(vectors.flatten(2).transpose(1, 2).flatten(0, 1), codes.flatten())
        chosen = self.decoder._vq_vae(codes)
        commitment = F.mse_loss(vectors, chosen)
        # Forward the code's vector, backward as if it were the encoder's own.
        through = vectors + (chosen - vectors).detach()
        return F.mse_loss(self.decoder.of_vectors(through), masks) + PULL * commitment

    def _move(self, vectors: Tensor, codes: Tensor) -> None:
        """vectors float[N, C], codes int64[N]."""
        taken = F.one_hot(codes, CODES).to(vectors.dtype)
        self.sizes.lerp_(taken.sum(dim=0), 1 - MEMORY)
        self.sums.lerp_(taken.T @ vectors, 1 - MEMORY)
        dead = self.sizes < ALIVE * len(codes) / CODES
        if dead.any():
            again = vectors[torch.randint(len(vectors), (int(dead.sum()),))]
            self.sizes[dead] = 1.0
            self.sums[dead] = again
        self.codebook.copy_(self.sums / self.sizes[:, None])

    @torch.inference_mode()
    def encode(self, crops: Levels, batch: int = 1024) -> Levels:
        """Codes of packed masks: uint8[M, 512] -> uint8[M, 16]."""
        found = [
            self.codes(self.encoder(_as_levels(crops[start : start + batch])))
            for start in range(0, len(crops), batch)
        ]
        return torch.cat(found).to(torch.uint8).numpy()


def _as_levels(crops: Levels) -> Tensor:
    """uint8[M, 512] -> float32[M, 64, 64] of +-1."""
    return torch.from_numpy(unpacked(crops)).float() * 2 - 1


def train_mask_autoencoder(
    crops: Levels, recipe: MaskRecipe, seed: int, step_done: Callable[[float], object]
) -> MaskAutoencoder:
    """Train on packed masks, uint8[M, 512]."""
    torch.manual_seed(seed)
    model = MaskAutoencoder(recipe)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], recipe.peak_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, recipe.steps)
    for chosen in _batches(len(crops), recipe, seed):
        loss = model.loss(_as_levels(crops[chosen]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        step_done(float(loss.detach()))
    return model.eval()


def _batches(
    count: int, recipe: MaskRecipe, seed: int
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    rng = np.random.RandomState(seed)
    for _ in range(recipe.steps):
        yield rng.randint(count, size=recipe.batch)


@torch.inference_mode()
def mean_iou(model: MaskAutoencoder, crops: Levels) -> float:
    """Mean overlap of masks with what their codes decode to: the ceiling of what PaliGemma can say."""
    masks = torch.from_numpy(unpacked(crops))
    painted = model.decoder(torch.from_numpy(model.encode(crops)).long()) > 0
    both, either = (masks & painted).sum((1, 2)), (masks | painted).sum((1, 2))
    return float((both / either).mean())
