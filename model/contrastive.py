"""The losses that train SigLIP's vision tower and CLIP: matching images and texts attract each other.

Both losses take a batch of B image-text pairs. CLIP (arXiv 2103.00020, section 2.3) predicts which of the B
texts belongs to an image, and which of the B images belongs to a text: a softmax over the batch. SigLIP
(arXiv 2303.15343, algorithm 1) predicts for each of the B * B combinations of an image and a text whether
image and text belong together: a sigmoid per combination. The combinations are independent of each other, so
the batch can be computed in chunks.

Both losses are computed in float32 from log-softmax and log-sigmoid, which stay finite where exp would
overflow.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def similarity(images: Tensor, texts: Tensor) -> Tensor:
    """Return cosine similarities of images and texts: float[B, E], float[texts, E] -> float32[B, texts]."""
    return F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T


def clip_loss(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """Return CLIP's loss: the mean cross-entropy of predicting the text of each image and vice versa.

    Args:
        images: float[B, E].
        texts: float[B, E].
        log_scale: float[], logarithm of the inverse temperature; learned.

    Returns:
        float32[].
    """
    return clip_loss_from_logits(similarity(images, texts) * log_scale.float().exp())


def clip_loss_from_logits(logits: Tensor) -> Tensor:
    """Return CLIP's loss: logits float[B, B], one row per image and one column per text -> float32[]."""
    targets = torch.arange(len(logits), device=logits.device)
    logits = logits.float()
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def siglip_loss(
    images: Tensor,
    texts: Tensor,
    log_scale: Tensor,
    bias: Tensor,
    *,
    targets: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Return SigLIP's loss: -log sigmoid(z * logit), summed over the texts and averaged over the images.

    z is 1 if image and text belong together, otherwise -1.

    Args:
        images: float[B, E].
        texts: float[texts, E].
        log_scale: float[], logarithm of the inverse temperature; learned.
        bias: float[], negative at the start of training, because most combinations do not belong together;
            learned.
        targets: int64[B], index of the text that belongs to each image; images may share a text. None:
            text b belongs to image b.
        chunk: texts per chunk. Memory use grows with B * chunk, also in the backward pass. None: one chunk.

    Returns:
        float32[].
    """
    targets = torch.arange(len(images), device=images.device) if targets is None else targets
    size = chunk or len(texts)
    total = images.new_zeros((), dtype=torch.float32)
    for start in range(0, len(texts), size):
        arguments = images, texts[start : start + size], log_scale, bias, targets - start
        if chunk is None:
            total = total + _chunk_loss(*arguments)
        else:  # the backward pass computes the logits again instead of storing them
            total = total + checkpoint(_chunk_loss, *arguments, use_reentrant=False)
    return total / len(images)


def siglip_loss_from_logits(logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """Return the sum of -log sigmoid(z * logit). z is 1 if image and text belong together, otherwise -1.

    Args:
        logits: float[B, texts].
        targets: int64[B], column of the text that belongs to each image. A number outside [0, texts) means
            that the text is not among the columns. None: the text in column b belongs to image b.

    Returns:
        float32[]. The loss is a sum, not a mean.
    """
    targets = torch.arange(logits.shape[0], device=logits.device) if targets is None else targets
    columns = torch.arange(logits.shape[1], device=logits.device)
    sign = torch.where(targets[:, None] == columns[None, :], 1.0, -1.0)
    return -F.logsigmoid(sign * logits.float()).sum()


def _chunk_loss(images: Tensor, texts: Tensor, log_scale: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    logits = similarity(images, texts) * log_scale.float().exp() + bias.float()
    return siglip_loss_from_logits(logits, targets)
