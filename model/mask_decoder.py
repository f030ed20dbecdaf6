"""The mask decoder: 16 codes become a mask (decoder of a vector-quantised autoencoder, arXiv 1711.00937).

PaliGemma writes a mask as a box and 16 `<seg>` tokens (arXiv 2407.07726, section 5.3). Each token selects a
vector of a codebook. A small convolutional network turns the 4 x 4 grid of vectors into a 64 x 64 map: a 1 x
1 convolution, two residual blocks, four transposed convolutions, each of which doubles height and width, and
a 1 x 1 convolution. A pixel belongs to the mask if the map is positive there. The parameters have the names
of the published `vae-oid.npz`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODES = 128  # `<seg000>` to `<seg127>`
GRID = 4  # codes per row and per column
DOUBLINGS = 4  # doublings of the side from GRID to SIDE
SIDE = GRID * 2**DOUBLINGS  # height and width of the map in pixels
FIRST_WEIGHT = "decoder.0.weight"  # [channels, codebook_width, 1, 1]; gives channels and codebook_width


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, then a 1 x 1 convolution. The result is added to the input of the block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block: float[masks, channels, height, width] -> the same shape."""
        out: Tensor = x + self.net(x)
        return out


class Codebook(nn.Module):
    """Matrix with one vector per code."""

    def __init__(self, codebook_width: int) -> None:
        super().__init__()
        self._embedding = nn.Parameter(torch.empty(CODES, codebook_width))

    def forward(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes as a grid: int64[masks, 16] -> float[masks, codebook_width, 4, 4].

        The codes are in row-major order.
        """
        grid = torch.unflatten(F.embedding(codes, self._embedding), 1, (GRID, GRID))
        return grid.permute(0, 3, 1, 2)


class MaskDecoder(nn.Module):
    """Codebook and convolutional network of the mask decoder.

    In the published mask decoder, the vectors have width 512, and the network has 128 channels.
    """

    def __init__(self, codebook_width: int, channels: int) -> None:
        super().__init__()
        self.codebook_width, self.channels = codebook_width, channels
        self._vq_vae = Codebook(codebook_width)
        layers: list[nn.Module] = [nn.Conv2d(codebook_width, channels, 1), nn.ReLU()]
        layers += [ResidualBlock(channels), ResidualBlock(channels)]
        inputs = channels
        for doubling in range(DOUBLINGS):
            outputs = channels >> doubling
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.ReLU()]
            inputs = outputs
        layers.append(nn.Conv2d(inputs, 1, 1))
        self.decoder = nn.Sequential(*layers)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor]) -> MaskDecoder:
        """Return the decoder with the given weights, whose shapes determine its sizes.

        Args:
            weights: the parameters, by their published names. They are converted to float32.

        Raises:
            ValueError: a parameter is missing, unexpected or misshapen; the message names it.
        """
        first = weights.get(FIRST_WEIGHT)
        if first is None or first.ndim != 4:
            raise ValueError(f"{FIRST_WEIGHT} is missing or does not have four axes")
        channels, codebook_width = first.shape[:2]
        with torch.device("meta"):  # needs no memory, because a damaged file may contain any width
            decoder = cls(codebook_width, channels)
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
        """Decode masks: int64[masks, 16] -> float[masks, 64, 64], about 1 inside the mask and -1 outside."""
        return self.decode_vectors(self._vq_vae(codes))

    def decode_vectors(self, vectors: Tensor) -> Tensor:
        """Decode grids of vectors: float[masks, codebook_width, 4, 4] -> float[masks, 64, 64]."""
        out: Tensor = self.decoder(vectors).squeeze(1)
        return out
