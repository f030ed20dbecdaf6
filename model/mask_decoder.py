"""Sixteen codes become a mask: the decoder of a vector-quantised autoencoder (arXiv 1711.00937).

PaliGemma writes a mask as a box and 16 `<seg>` tokens (arXiv 2407.07726, section 3.2.1). Each token picks a
vector from a codebook; a small convolutional network turns the 4 x 4 grid of vectors into a 64 x 64 map: a
1 x 1 convolution, two residual blocks, four transposed convolutions that each double the side, and a 1 x 1
convolution. The mask is where the map is positive. Parameters have the names of the published `vae-oid.npz`.

Legend: B batch, C codebook width, W network width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODES = 128  # `<seg000>` to `<seg127>`
GRID = 4  # codes, both ways
DOUBLINGS = 4  # of the side, from the grid to the map
FIRST = "decoder.0.weight"  # the convolution whose shape says both widths
SIDE = GRID * 2**DOUBLINGS  # pixels, both ways


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and one of 1 x 1, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float[B, W, H, H] -> float[B, W, H, H]."""
        out: Tensor = x + self.net(x)
        return out


class Codebook(nn.Module):
    """One vector a code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._embedding = nn.Parameter(torch.empty(CODES, width))

    def forward(self, codes: Tensor) -> Tensor:
        """int64[B, 16] -> float[B, C, 4, 4], row by row."""
        grid = torch.unflatten(F.embedding(codes, self._embedding), 1, (GRID, GRID))
        return grid.permute(0, 3, 1, 2)


class MaskDecoder(nn.Module):
    """The whole decoder. The published one has C = 512 and W = 128."""

    def __init__(self, codebook_width: int, width: int) -> None:
        super().__init__()
        self.codebook_width, self.width = codebook_width, width
        self._vq_vae = Codebook(codebook_width)
        layers: list[nn.Module] = [nn.Conv2d(codebook_width, width, 1), nn.ReLU()]
        layers += [ResidualBlock(width), ResidualBlock(width)]
        wide = width
        for doubling in range(DOUBLINGS):
            narrow = width >> doubling
            layers += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1), nn.ReLU()]
            wide = narrow
        layers.append(nn.Conv2d(wide, 1, 1))
        self.decoder = nn.Sequential(*layers)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> MaskDecoder:
        """The decoder with the given weights, whose shapes say its sizes.

        Args:
            weights: every parameter by its published name.

        Raises:
            ValueError: a parameter is missing, unexpected or misshapen; the message names it.
        """
        first = weights.get(FIRST)
        if first is None or first.ndim != 4:
            raise ValueError(f"{FIRST} is missing or has not four axes")
        width, codebook_width = first.shape[:2]
        with torch.device("meta"):  # shapes only: the file may ask for any width
            decoder = cls(codebook_width, width)
        shapes = {name: tuple(weight.shape) for name, weight in decoder.state_dict().items()}
        for name in sorted(shapes.keys() | weights.keys()):
            if name not in weights:
                raise ValueError(f"{name} is missing")
            if name not in shapes:
                raise ValueError(f"{name} is not expected")
            if tuple(weights[name].shape) != shapes[name]:
                raise ValueError(f"{name} is {list(weights[name].shape)}, expected {list(shapes[name])}")
        floats = {name: weight.to(torch.float32) for name, weight in weights.items()}
        decoder.load_state_dict(floats, strict=True, assign=True)
        return decoder.eval().requires_grad_(False)

    def forward(self, codes: Tensor) -> Tensor:
        """int64[B, 16] -> float[B, 64, 64], about 1 inside the mask and -1 outside."""
        return self.of_vectors(self._vq_vae(codes))

    def of_vectors(self, vectors: Tensor) -> Tensor:
        """float[B, C, 4, 4] -> float[B, 64, 64]."""
        out: Tensor = self.decoder(vectors).squeeze(1)
        return out
