"""A PEFT LoRA adapter, merged into the base weights one tensor at a time: W + B A scale (arXiv 2106.09685).

Legend: O rows of W (outputs), I columns (inputs), R rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from .errors import CheckpointError, quote_names, quote_value
from .lora_config import AdapterConfig, read_adapter_config
from .safetensors_header import StoredTensor, map_file, read_header
from .tensor_names import canonical_name

ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's two wrappers around the model
LORA_A, LORA_B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class _Product:
    """The two factors of one weight's change, by their stored names."""

    a: str  # [R, I]
    b: str  # [O, R]
    scale: float


@dataclass(frozen=True)
class Adapter:
    """Changes to base weights, by canonical name of the weight."""

    folder: Path
    _file: Any  # a safe_open handle, which maps the file and is kept open
    _products: Mapping[str, _Product]

    @classmethod
    def open(cls, folder: Path, expected: Mapping[str, tuple[int, ...]]) -> Adapter:
        """Open a folder with adapter_config.json and adapter_model.safetensors.

        Args:
            folder: what `save_pretrained` of a PEFT model writes.
            expected: shape of each parameter of the base model by canonical name.

        Raises:
            CheckpointError: files missing or damaged, an adapter that is not plain LoRA, or tensors without
                a partner or without a base weight they fit.
        """
        config = read_adapter_config(folder)
        path = folder / ADAPTER_WEIGHTS
        if not path.exists() and (folder / "adapter_model.bin").exists():
            raise CheckpointError(
                f"{folder}: safetensors only, and this holds adapter_model.bin; save it again"
            )
        header = read_header(path)
        products = _products(path, header, config, expected)
        return cls(folder, map_file(path), products)

    @property
    def names(self) -> Set[str]:
        """Canonical names of the weights that the adapter changes."""
        return self._products.keys()

    def merge(self, name: str, weight: Tensor) -> Tensor:
        """The adapted weight, float32[O, I], in new memory; an unadapted one comes back as it is."""
        product = self._products.get(name)
        if product is None:
            return weight
        a: Tensor = self._file.get_tensor(product.a)
        b: Tensor = self._file.get_tensor(product.b)
        return weight.float().addmm(b.float(), a.float(), alpha=product.scale)


def _products(
    path: Path,
    header: Mapping[str, StoredTensor],
    config: AdapterConfig,
    expected: Mapping[str, tuple[int, ...]],
) -> dict[str, _Product]:
    """Pair the factors and check that each pair fits a weight of the model."""
    strange = [n for n in header if not n.startswith(PREFIX) or not n.endswith((LORA_A, LORA_B))]
    if strange:
        raise CheckpointError(f"{path}: not factors of plain LoRA: {quote_names(strange)}")
    if not header:
        raise CheckpointError(f"{path}: holds no tensors")
    modules = {n.removesuffix(LORA_A).removesuffix(LORA_B).removeprefix(PREFIX) for n in header}
    products: dict[str, _Product] = {}
    for module in sorted(modules):
        a, b = PREFIX + module + LORA_A, PREFIX + module + LORA_B
        if a not in header or b not in header:
            raise CheckpointError(f"{path}: {quote_value(a if b in header else b)} is missing")
        name = f"{canonical_name(module)}.weight"
        if name not in expected:
            raise CheckpointError(
                f"{path}: {quote_value(module)} is no layer of the model that LoRA can be merged into"
            )
        if name in products:
            raise CheckpointError(f"{path}: two names for one layer, of which one is {quote_value(module)}")
        rank, weight = config.rank(module), expected[name]
        shapes = header[a].shape, header[b].shape
        if len(weight) != 2 or shapes != ((rank, weight[1]), (weight[0], rank)):
            found = f"A and B of shapes {quote_value(shapes)} and rank {rank}"
            raise CheckpointError(f"{path}: {quote_value(module)} has {found}, for a weight {list(weight)}")
        products[name] = _Product(a, b, config.scale(module))
    return products
