"""A PEFT LoRA adapter, merged into the base weights one tensor at a time: W + scale * B A (arXiv 2106.09685).

Shapes: W is [out, in], A is [rank, in], B is [out, rank].
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .errors import CheckpointError, quote_names, quote_value
from .lora_config import AdapterConfig, read_adapter_config
from .safetensors_file import StoredTensor, open_safetensors
from .tensor_names import canonical_name

PREFIX = "base_model.model."  # PEFT wraps the model twice
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class _Product:
    """The change of one weight: the product of two factors and a scale."""

    a: StoredTensor  # [rank, in]
    b: StoredTensor  # [out, rank]
    scale: float


@dataclass(frozen=True)
class Adapter:
    """The changes that an adapter makes to base weights, stored by the canonical name of the weight."""

    _products: Mapping[str, _Product]

    @classmethod
    def open(cls, folder: Path, expected: Mapping[str, tuple[int, ...]]) -> Adapter:
        """Return the adapter in a folder that holds adapter_config.json and adapter_model.safetensors.

        Args:
            folder: written by `save_pretrained` of a PEFT model.
            expected: shape of each parameter of the base model by canonical name.

        Raises:
            CheckpointError: a file is missing or damaged, the adapter is not plain LoRA, a factor has no
                second factor, or no base weight has the name and shape of a product.
        """
        config = read_adapter_config(folder)
        path = folder / "adapter_model.safetensors"
        if not path.exists() and (folder / "adapter_model.bin").exists():
            raise CheckpointError(
                f"{folder}: safetensors only, and this folder holds adapter_model.bin; save the adapter again"
            )
        return cls(_pair_factors(path, config, expected))

    @property
    def names(self) -> Set[str]:
        """Canonical names of the weights that the adapter changes."""
        return self._products.keys()

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """Return the adapted weight, a new float32[out, in]; without a change for `name`, return `weight`."""
        product = self._products.get(name)
        if product is None:
            return weight
        a, b = product.a.load().float(), product.b.load().float()
        return weight.float().addmm(b, a, alpha=product.scale)


def _pair_factors(
    path: Path, config: AdapterConfig, expected: Mapping[str, tuple[int, ...]]
) -> dict[str, _Product]:
    """Return the products of an adapter file by weight; check that each product fits its weight."""
    stored = open_safetensors(path)
    others = [name for name in stored if not name.startswith(PREFIX) or not name.endswith((LORA_A, LORA_B))]
    if others:
        raise CheckpointError(f"{path}: not factors of plain LoRA: {quote_names(others)}")
    if not stored:
        raise CheckpointError(f"{path}: holds no tensors")
    modules = {name.removesuffix(LORA_A).removesuffix(LORA_B).removeprefix(PREFIX) for name in stored}
    products: dict[str, _Product] = {}
    for module in sorted(modules):
        a, b = PREFIX + module + LORA_A, PREFIX + module + LORA_B
        if a not in stored or b not in stored:
            raise CheckpointError(f"{path}: {quote_value(a if b in stored else b)} is missing")
        name = f"{canonical_name(module)}.weight"
        if name not in expected:
            raise CheckpointError(
                f"{path}: {quote_value(module)} is not a layer of the model that LoRA can be merged into"
            )
        if name in products:
            raise CheckpointError(
                f"{path}: two names for one layer; remove {quote_value(module)} or its copy"
            )
        rank, weight = config.rank(module), expected[name]
        shapes = stored[a].shape, stored[b].shape
        if len(weight) != 2 or shapes != ((rank, weight[1]), (weight[0], rank)):
            factors = f"A and B of shapes {quote_value(shapes)} and rank {rank}"
            raise CheckpointError(f"{path}: {quote_value(module)} has {factors}, for a weight {list(weight)}")
        products[name] = _Product(stored[a], stored[b], config.scale(module))
    return products
