"""How SigLIP's vision tower learns to see: pictures and captions that belong together attract.

Two losses over a batch of B pictures and B captions, the b-th of each belonging together. CLIP (arXiv
2103.00020, section 2.3) asks of each picture which of the B captions is its own: a softmax over the batch.
SigLIP (arXiv 2303.15343, algorithm 1) asks of each of the B * B pairs whether it belongs together: a sigmoid
a pair, so no pair needs to know of the others, and the batch can be computed in pieces.

Both are computed in float32 from log-softmax and log-sigmoid, which stay finite where exp would overflow.

Legend: B batch, E width of the shared space.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def similarity(images: Tensor, texts: Tensor) -> Tensor:
    """Cosine of each picture with each caption: float[B, E], float[C, E] -> float32[B, C]."""
    return F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T


def clip_loss(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """Mean of the cross-entropies of finding the caption of a picture and the picture of a caption.

    Args:
        images: float[B, E].
        texts: float[B, E].
        log_scale: float[], logarithm of the inverse temperature; learned.

    Returns:
        float32[].
    """
    logits = similarity(images, texts) * log_scale.float().exp()
    return clip_loss_of_logits(logits)


def clip_loss_of_logits(logits: Tensor) -> Tensor:
    """The same from float[B, B] logits, pictures down and captions across."""
    own = torch.arange(len(logits), device=logits.device)
    logits = logits.float()
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def siglip_loss(
    images: Tensor,
    texts: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    *,
    own: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Sum over captions of -log sigmoid(+-logit), averaged over pictures.

    Args:
        images: float[B, E].
        texts: float[C, E].
        log_scale: float[], logarithm of the inverse temperature; learned.
        bias: float[], makes the many pairs that do not belong together likely at the start; learned.
        own: int64[B], which caption each picture has; several may have one. None: the b-th has the b-th.
        chunk: captions looked at together; memory grows with B * chunk, in the backward pass too. None
            looks at all at once.

    Returns:
        float32[].
    """
    own = torch.arange(len(images), device=images.device) if own is None else own
    size = chunk or len(texts)
    total = images.new_zeros((), dtype=torch.float32)
    for start in range(0, len(texts), size):
        piece = texts[start : start + size]
        if chunk is None:
            total = total + _pairs(images, piece, log_scale, bias, own - start)
        else:  # logits are computed again for the backward pass, not kept
            pairs = checkpoint(_pairs, images, piece, log_scale, bias, own - start, use_reentrant=False)
            total = total + pairs
    return total / len(images)


def siglip_loss_of_logits(logits: Tensor, own: Tensor | None = None) -> Tensor:
    """Sum of -log sigmoid(z * logit) with z = 1 where picture and caption belong together, else -1.

    Args:
        logits: float[B, C].
        own: int64[B], column of each picture's caption; outside [0, C) where it is not among them. None:
            the b-th has the b-th.

    Returns:
        float32[], not yet averaged.
    """
    own = torch.arange(logits.shape[0], device=logits.device) if own is None else own
    columns = torch.arange(logits.shape[1], device=logits.device)
    sign = torch.where(own[:, None] == columns[None, :], 1.0, -1.0)
    return -F.logsigmoid(sign * logits.float()).sum()


def _pairs(images: Tensor, texts: Tensor, log_scale: Tensor, bias: Tensor, own: Tensor) -> Tensor:
    logits = similarity(images, texts) * log_scale.float().exp() + bias.float()
    return siglip_loss_of_logits(logits, own)
