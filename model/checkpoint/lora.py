"""The change that an adapter makes to one tensor, in float32.

    LoRA   W + scale * B A                                 (arXiv 2106.09685)
    DoRA   magnitude * V / |V| with V = W + scale * B A    (arXiv 2402.09353, equation 5)

Shapes: a linear layer's W is [out, in], A is [rank, in], B is [out, rank]; `|V|` is the norm of each row. A
convolution's W and A are flattened after their first axis. An embedding's W is [rows, width], A is [rank,
rows], B is [width, rank], the product is (B A)^T, and `|V|` is the norm of each column.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .safetensors_file import StoredTensor


@dataclass(frozen=True)
class Product:
    """A scaled product of two factors, and DoRA's magnitudes if the adapter has them."""

    a: StoredTensor
    b: StoredTensor
    scale: float
    magnitude: StoredTensor | None = None
    is_embedding: bool = False

    def add_to(self, weight: Tensor) -> None:
        """Add the product to a float32 weight in place, then scale the sum to DoRA's magnitudes, if any."""
        a, b = self.a.load().float().flatten(1), self.b.load().float().flatten(1)
        left, right = (a.T, b.T) if self.is_embedding else (b, a)
        rows = weight.view(len(weight), -1)
        rows.addmm_(left, right, alpha=self.scale)
        if self.magnitude is not None:
            norms = torch.linalg.vector_norm(rows, dim=0 if self.is_embedding else 1)
            factors = self.magnitude.load().float().flatten() / norms
            rows *= factors if self.is_embedding else factors[:, None]


@dataclass(frozen=True)
class TokenRows:
    """Trained rows of an embedding, or of the output head that is tied to it."""

    values: StoredTensor  # [rows, width]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """Changes of one tensor by an adapter, in this order: replacement, replacement of rows, additions.

    PEFT adds the product of an adapted output head to the head that is tied to the trained rows.
    """

    replacement: StoredTensor | None = None
    products: tuple[Product, ...] = ()
    offset: tuple[StoredTensor, float] | None = None  # added to a bias, with its scale
    rows: TokenRows | None = None

    @property
    def only_replaces(self) -> bool:
        """True if the changed tensor is stored, so that nothing is computed."""
        return not self.products and self.offset is None and self.rows is None

    @property
    def is_plain_lora(self) -> bool:
        """True if the change is a sum of products, which can be weighted and added to other changes."""
        has_magnitude = any(product.magnitude is not None for product in self.products)
        return self.replacement is None and self.offset is None and self.rows is None and not has_magnitude

    def dtype(self, stored: torch.dtype) -> torch.dtype:
        """Return the dtype of the changed tensor: float32 unless the tensor is only replaced."""
        if self.only_replaces:
            return stored if self.replacement is None else self.replacement.dtype
        return torch.float32

    def apply(self, tensor: Tensor) -> Tensor:
        """Return the changed tensor. If it is computed, it is a new float32 tensor."""
        if self.replacement is not None:
            tensor = self.replacement.load()
        if self.only_replaces:
            return tensor
        changed = tensor.to(torch.float32, copy=True)
        if self.rows is not None:
            changed[list(self.rows.ids)] = self.rows.values.load().float()
        for product in self.products:
            product.add_to(changed)
        if self.offset is not None:
            values, scale = self.offset
            changed += scale * values.load().float()
        return changed


def changes_both_alike(embedding: Change, head: Change) -> bool:
    """Return whether changes of the embedding and of the output head leave both the same matrix.

    PEFT stores the factors of a tied head as the transposed factors of the embedding.
    """
    pairs = list(zip(embedding.products, head.products, strict=False))
    return (
        _have_equal_values(embedding.replacement, head.replacement)
        and _have_equal_rows(embedding.rows, head.rows)
        and len(embedding.products) == len(head.products)
        and all(_are_transposed(mine, other) for mine, other in pairs)
    )


def _have_equal_values(first: StoredTensor | None, second: StoredTensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and torch.equal(first.load(), second.load())


def _have_equal_rows(first: TokenRows | None, second: TokenRows | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.ids == second.ids and _have_equal_values(first.values, second.values)


def _are_transposed(embedding: Product, head: Product) -> bool:
    if embedding.magnitude is not None or head.magnitude is not None or embedding.scale != head.scale:
        return False
    pairs = ((embedding.a, head.b), (embedding.b, head.a))
    return all(
        mine.shape == other.shape[::-1] and torch.equal(mine.load(), other.load().T) for mine, other in pairs
    )
