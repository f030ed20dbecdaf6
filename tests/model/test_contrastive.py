"""Both contrastive losses against transformers, against float64 NumPy, and where exp would overflow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_expit, log_softmax

from paligemma_onnx.model.contrastive import (
    clip_loss,
    clip_loss_from_logits,
    siglip_loss,
    siglip_loss_from_logits,
    similarity,
)

BATCH, WIDTH = 6, 16
LOG_SCALE, BIAS = torch.tensor(1.3), torch.tensor(-2.0)


def embeddings(seed: int) -> torch.Tensor:
    return torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(seed)) * 3


def logits() -> torch.Tensor:
    return similarity(embeddings(0), embeddings(1)) * LOG_SCALE.exp() + BIAS


def test_similarity_is_the_cosine() -> None:
    images, texts = embeddings(0).double().numpy(), embeddings(1).double().numpy()
    cosine = images @ texts.T / np.linalg.norm(images, axis=1)[:, None] / np.linalg.norm(texts, axis=1)
    np.testing.assert_allclose(similarity(embeddings(0), embeddings(1)).numpy(), cosine, rtol=0, atol=1e-6)


def test_clip_is_transformers() -> None:
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    scores = similarity(embeddings(0), embeddings(1)) * LOG_SCALE.exp()
    theirs = image_text_contrastive_loss(scores.T)
    torch.testing.assert_close(clip_loss(embeddings(0), embeddings(1), LOG_SCALE), theirs)


def test_clip_is_numpy() -> None:
    scores = logits().double().numpy()
    targets = np.arange(BATCH)
    right = (
        -(log_softmax(scores, 1)[targets, targets].mean() + log_softmax(scores, 0)[targets, targets].mean())
        / 2
    )
    assert float(clip_loss_from_logits(logits())) == pytest.approx(right, rel=1e-6)


def test_siglip_is_transformers() -> None:
    """SiglipModel computes the loss of the embeddings that its towers return."""
    from transformers import SiglipConfig, SiglipModel

    small = {"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = SiglipModel(
        SiglipConfig(
            text_config={**small, "vocab_size": 50, "max_position_embeddings": 4, "projection_size": WIDTH},
            vision_config={**small, "image_size": 28, "patch_size": 14},
        )
    ).eval()
    with torch.no_grad():
        model.logit_scale.fill_(LOG_SCALE)
        model.logit_bias.fill_(BIAS)
        output = model(
            input_ids=torch.randint(2, 50, (BATCH, 4), generator=torch.Generator().manual_seed(4)),
            pixel_values=torch.randn(BATCH, 3, 28, 28, generator=torch.Generator().manual_seed(5)),
            return_loss=True,
        )
    ours = siglip_loss(output.image_embeds, output.text_embeds, LOG_SCALE, BIAS)
    torch.testing.assert_close(ours, output.loss)


def test_siglip_is_numpy() -> None:
    sign = 2 * np.eye(BATCH) - 1
    right = -log_expit(sign * logits().double().numpy()).sum()
    assert float(siglip_loss_from_logits(logits())) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("chunk", [None, 2])
def test_images_may_share_a_text(chunk: int | None) -> None:
    targets = torch.tensor([1, 0, 1, 3, 3, 1])  # of four texts, one of which belongs to no image
    sign = np.where(targets.numpy()[:, None] == np.arange(4), 1, -1)
    texts = embeddings(1)[:4]
    scores = (similarity(embeddings(0), texts) * LOG_SCALE.exp() + BIAS).double().numpy()
    right = -log_expit(sign * scores).sum() / BATCH
    loss = siglip_loss(embeddings(0), texts, LOG_SCALE, BIAS, targets=targets, chunk=chunk)
    assert float(loss) == pytest.approx(right, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 4, BATCH, 100])
def test_chunks_equal_the_whole(chunk: int) -> None:
    def loss_and_gradients(size: int | None) -> list[torch.Tensor]:
        inputs = [embeddings(0), embeddings(1), LOG_SCALE.clone(), BIAS.clone()]
        for tensor in inputs:
            tensor.requires_grad_()
        loss = siglip_loss(*inputs, chunk=size)
        loss.backward()
        return [loss.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]

    whole, pieces = loss_and_gradients(None), loss_and_gradients(chunk)
    assert len(whole) == len(pieces) == 5
    for expected, actual in zip(whole, pieces, strict=True):
        torch.testing.assert_close(actual, expected)


def test_memory_of_chunks_does_not_grow_with_the_square() -> None:
    """Autograd stores every logit if all pairs are computed at once, and only embeddings if in chunks."""

    def largest_stored(chunk: int | None) -> int:
        images = torch.randn(512, 8, requires_grad=True)
        texts = torch.randn(512, 8, requires_grad=True)
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            siglip_loss(images, texts, LOG_SCALE, BIAS, chunk=chunk)
        return max(sizes)

    assert largest_stored(None) == 512 * 512
    assert largest_stored(64) <= 512 * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_finite_at_extreme_logits(dtype: torch.dtype, size: float) -> None:
    """exp(1e4) overflows every floating-point dtype; log-softmax and log-sigmoid never compute it."""
    extreme = (torch.eye(BATCH) * 2 - 1) * size
    for loss_of in (clip_loss_from_logits, siglip_loss_from_logits):
        scores = extreme.to(dtype).requires_grad_()
        loss = loss_of(scores)
        loss.backward()
        assert torch.isfinite(loss)
        assert scores.grad is not None
        assert torch.isfinite(scores.grad).all()
        if size > 0:
            assert loss.item() < 1e-6
        else:  # every pair is classified wrongly: the loss is as large as the logits
            assert loss.item() > 1e3
