"""The training view of PaliGemma: prompt and answer at once, loss on the answer only.

Generating runs prefill and then one decode step a token. Training knows the answer, so one pass computes what
all these steps would: image and prompt see each other in both directions, each token of the answer sees the
prefix and the answer before it (the mask that model/mask.py draws), and each predicts the token behind it.

Legend: B rows, I image tokens, T text tokens of the longest row (BOS, prompt, newline, answer), S = I + T,
G query heads on a key-value head, A answer tokens of all rows, EOS included, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from paligemma_onnx.model.paligemma import PaliGemma

from .tasks import LOCATIONS, Example


@dataclass(frozen=True)
class Ids:
    """The tokenizer and the ids that training needs by name."""

    tokenizer: Tokenizer
    bos: int
    eos: int
    pad: int
    first_location: int
    image: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Ids:
        """Look the ids up."""
        names = ("<bos>", "<eos>", "<pad>", "<loc0000>", "<image>")
        return cls(tokenizer, *(tokenizer.get_vocab()[name] for name in names))

    def located(self, tokens: Tensor) -> Tensor:
        """Which tokens are locations: int64[A] -> bool[A]."""
        return (tokens >= self.first_location) & (tokens < self.first_location + LOCATIONS)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, without BOS."""
        return [found.ids for found in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


@dataclass(frozen=True)
class Batch:
    """Rows of prompts with their answers."""

    input_ids: Tensor  # int64[B, T], padded on the right; the last token of an answer (EOS) is only a target
    prefix: Tensor  # int64[B], text tokens that see each other
    places: Tensor  # int64[A], where in the flattened [B * S] an answer token is predicted
    targets: Tensor  # int64[A]
    weights: Tensor  # float32[A], of each target in the loss
    rows: Tensor  # int64[A], row of each target


def collate(examples: Sequence[Example], ids: Ids, image_tokens: int) -> Batch:
    """Turn examples into one batch.

    A row counts as the square root of its length: a mask of twenty tokens must not drown an answer of one,
    nor count as little.
    """
    prompts = ids.encode([f"{example.prompt}\n" for example in examples])
    answers = ids.encode([example.suffix for example in examples])
    texts = [[ids.bos, *prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, texts))
    input_ids = torch.full((len(texts), longest), ids.pad)
    places, targets, rows, weights = list[int](), list[int](), list[int](), list[float]()
    for row, (prompt, answer, text) in enumerate(zip(prompts, answers, texts, strict=True)):
        input_ids[row, : len(text)] = torch.tensor(text)
        wanted = [*answer, ids.eos]
        first = (
            row * (image_tokens + longest) + image_tokens + len(prompt)
        )  # BOS makes up for the shift by one
        places += range(first, first + len(wanted))
        targets += wanted
        weights += [len(wanted) ** -0.5] * len(wanted)
        rows += [row] * len(wanted)
    return Batch(
        input_ids,
        torch.tensor([1 + len(prompt) for prompt in prompts]),
        torch.tensor(places),
        torch.tensor(targets),
        torch.tensor(weights),
        torch.tensor(rows),
    )


def training_mask(prefix: Tensor, slots: int) -> Tensor:
    """Who sees whom, prefix and answer at once.

    Args:
        prefix: int64[B], tokens of each row that see each other, image tokens included.
        slots: S.

    Returns:
        bool[B, 1, S, S], rows looking at columns.
    """
    slot = torch.arange(slots)
    before = slot[None, :] <= slot[:, None]  # [S, S], causal
    return (before | (slot[None, None, :] < prefix[:, None, None]))[:, None]


def answer_logits(model: PaliGemma, image_features: Tensor, batch: Batch) -> Tensor:
    """Scores of every answer token at its place: float[B, I, D] features -> float[A, V]."""
    decoder = model.language_model
    x = torch.cat([image_features, decoder.embed(batch.input_ids, image_features.dtype)], dim=1)
    mask = training_mask(batch.prefix + image_features.shape[1], x.shape[1])
    # Queries that share a key head stand below each other in model/gemma.py, and so does their mask.
    mask = mask.repeat(1, 1, decoder.config.query_groups, 1)
    nobody = torch.empty(0)  # without a cache there are no lengths to read
    x, _ = decoder(x, torch.arange(x.shape[1])[None], (mask,) * len(decoder.layers), None, nobody)
    return decoder.logits(x.flatten(0, 1)[batch.places])


def loss(logits: Tensor, batch: Batch, ids: Ids, blur: float) -> Tensor:
    """Weighted sum of how far predictions are from their targets: float[A, V] -> float32[].

    Cross-entropy, except for locations: their target is not a token alone but a bell around it, since being
    one token off (a tenth of a pixel) is almost right. What is summed is the divergence from the bell, which
    like the cross-entropy is 0 for a perfect prediction.

    Args:
        logits: scores.
        batch: what they should say.
        ids: which targets are locations.
        blur: standard deviation of the bell, tokens.
    """
    logs = F.log_softmax(logits.float(), dim=-1)
    named = F.nll_loss(logs, batch.targets, reduction="none")
    (located,) = torch.where(ids.located(batch.targets))
    places = torch.arange(ids.first_location, ids.first_location + LOCATIONS)
    steps = places[None] - batch.targets[located, None]
    bell = F.log_softmax(-(steps**2) / (2 * blur**2), dim=1)
    said = logs[located][:, places]
    blurred = F.kl_div(said, bell, reduction="none", log_target=True).sum(dim=1)
    return (named.index_copy(0, located, blurred) * batch.weights).sum()
