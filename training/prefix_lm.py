"""Training pass of PaliGemma as a prefix language model: prompt and answer at once, loss on the answer only.

Generation runs prefill and then one decode step per token. In training the answer is known, so one pass
computes the logits of all these steps: image and prompt attend to each other in both directions, each answer
token attends to the prefix and to the answer up to itself (the mask of model/mask.py), and each position
predicts the next token.

Shapes: docs/notation.md. The T text tokens of a row are BOS, prompt, newline and answer, and L = I + T. In
addition, `targets` counts the answer tokens of all rows, EOS included.
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
class TrainingTokenizer:
    """A tokenizer with the ids that training uses."""

    tokenizer: Tokenizer
    bos: int
    eos: int
    pad: int
    first_location: int  # id of `<loc0000>`
    image: int

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> TrainingTokenizer:
        """Look up the ids in the tokenizer's vocabulary."""
        vocabulary = tokenizer.get_vocab()
        names = ("<bos>", "<eos>", "<pad>", "<loc0000>", "<image>")
        return cls(tokenizer, *(vocabulary[name] for name in names))

    def is_location(self, ids: Tensor) -> Tensor:
        """Return which ids are location tokens: int64[targets] -> bool[targets]."""
        return (ids >= self.first_location) & (ids < self.first_location + LOCATIONS)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without BOS."""
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


@dataclass(frozen=True)
class Batch:
    """Prompts with their answers, one per row."""

    input_ids: Tensor  # int64[B, T], padded on the right; EOS, the last token of an answer, is only a target
    prefix: Tensor  # int64[B], text tokens of the prefix
    positions: Tensor  # int64[targets], index in the flattened [B * L] positions that predict the targets
    targets: Tensor  # int64[targets], ids
    weights: Tensor  # float32[targets], weight of each target in the loss
    rows: Tensor  # int64[targets], row of each target


def collate(examples: Sequence[Example], tokenizer: TrainingTokenizer, image_tokens: int) -> Batch:
    """Combine examples into one batch.

    The weights of a row add up to the square root of its number of targets, so that an answer of twenty mask
    tokens neither dominates an answer of one token nor counts the same.

    Args:
        examples: one per row.
        tokenizer: encodes prompts and answers.
        image_tokens: I.
    """
    prompts = tokenizer.encode([f"{example.prompt}\n" for example in examples])
    answers = tokenizer.encode([example.suffix for example in examples])
    texts = [[tokenizer.bos, *prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    text_tokens = max(map(len, texts))
    input_ids = torch.full((len(texts), text_tokens), tokenizer.pad)
    positions, targets, rows, weights = list[int](), list[int](), list[int](), list[float]()
    for row, (prompt, answer, text) in enumerate(zip(prompts, answers, texts, strict=True)):
        input_ids[row, : len(text)] = torch.tensor(text)
        row_targets = [*answer, tokenizer.eos]
        # The first target is predicted at the prompt's last token, which BOS shifts to index len(prompt).
        first = row * (image_tokens + text_tokens) + image_tokens + len(prompt)
        positions += range(first, first + len(row_targets))
        targets += row_targets
        weights += [len(row_targets) ** -0.5] * len(row_targets)
        rows += [row] * len(row_targets)
    return Batch(
        input_ids,
        torch.tensor([1 + len(prompt) for prompt in prompts]),
        torch.tensor(positions),
        torch.tensor(targets),
        torch.tensor(weights),
        torch.tensor(rows),
    )


def training_mask(prefix: Tensor, positions: int) -> Tensor:
    """Return the prefix-LM attention mask of prefix and answer.

    Args:
        prefix: int64[B], tokens of each row's prefix, image tokens included.
        positions: L.

    Returns:
        bool[B, 1, L, L], true where a query (row) attends to a key (column).
    """
    position = torch.arange(positions)
    causal = position[None, :] <= position[:, None]  # [L, L]
    return (causal | (position[None, None, :] < prefix[:, None, None]))[:, None]


def answer_logits(model: PaliGemma, image_features: Tensor, batch: Batch) -> Tensor:
    """Return the logits of every target: float[B, I, D] image features -> float[targets, V]."""
    decoder = model.language_model
    x = torch.cat([image_features, decoder.embed(batch.input_ids, image_features.dtype)], dim=1)
    mask = training_mask(batch.prefix + image_features.shape[1], x.shape[1])
    # model/gemma.py stacks the query heads of a key-value head along the query axis, so the mask is repeated.
    mask = mask.repeat(1, 1, decoder.config.query_groups, 1)
    no_lengths = torch.empty(0)  # only read together with a cache
    x, _ = decoder(x, torch.arange(x.shape[1])[None], (mask,) * len(decoder.layers), None, no_lengths)
    return decoder.logits(x.flatten(0, 1)[batch.positions])


def answer_loss(logits: Tensor, batch: Batch, tokenizer: TrainingTokenizer, location_std: float) -> Tensor:
    """Return the weighted sum of the losses of all targets: float[targets, V] -> float32[].

    The loss is the cross-entropy, except for location tokens: a location that is off by one (a tenth of a
    pixel) is almost correct, so their target is a Gaussian around the true location and their loss is the
    Kullback-Leibler divergence from it, which like the cross-entropy is 0 for a perfect prediction.

    Args:
        logits: float[targets, V].
        batch: the batch with the targets.
        tokenizer: determines which targets are locations.
        location_std: standard deviation of the Gaussian in location tokens.
    """
    log_probs = F.log_softmax(logits.float(), dim=-1)
    losses = F.nll_loss(log_probs, batch.targets, reduction="none")
    (at_locations,) = torch.where(tokenizer.is_location(batch.targets))
    location_ids = torch.arange(tokenizer.first_location, tokenizer.first_location + LOCATIONS)
    offsets = location_ids[None] - batch.targets[at_locations, None]
    gaussian = F.log_softmax(-(offsets**2) / (2 * location_std**2), dim=1)
    predicted = log_probs[at_locations][:, location_ids]
    divergences = F.kl_div(predicted, gaussian, reduction="none", log_target=True).sum(dim=1)
    return (losses.index_copy(0, at_locations, divergences) * batch.weights).sum()
