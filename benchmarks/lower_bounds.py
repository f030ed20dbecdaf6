"""Compute lower bounds for the time of a decode step and of a prefill on a machine.

A decode step of one sequence reads every weight of the decoder once, so it is limited by memory bandwidth. A
prefill multiplies hundreds of rows by each weight, so it is limited by the rate of matrix products.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from paligemma_onnx.model.config import PaliGemmaConfig

LOOKUPS = frozenset({"Gather", "GatherBlockQuantized"})  # operators that read some rows of their first input


def decode_bound_s(weight_bytes: int, bytes_per_s: float) -> float:
    """Return the seconds that it takes to read the weights of a decode step once."""
    return weight_bytes / bytes_per_s


def prefill_bound_s(operations: int, operations_per_s: float) -> float:
    """Return the seconds that it takes to compute the matrix products of a prefill."""
    return operations / operations_per_s


def weight_bytes(graph: Path) -> int:
    """Return the bytes of weights that one run of an ONNX graph reads; weights of lookups do not count."""
    model = onnx.load(graph, load_external_data=False)
    read = {name for node in model.graph.node if node.op_type not in LOOKUPS for name in node.input}
    # Length by file and offset. Two initializers may have the same file and offset, which count once.
    external: dict[tuple[str, str], int] = {}
    inline = 0
    for tensor in model.graph.initializer:
        if tensor.name not in read:
            continue
        location = {entry.key: entry.value for entry in tensor.external_data}
        if location:
            external[location["location"], location.get("offset", "0")] = int(location["length"])
        else:
            inline += tensor.ByteSize()
    return inline + sum(external.values())


def prefill_operations(config: PaliGemmaConfig, positions: int) -> int:
    """Return the number of multiplications and additions of a prefill of one sequence.

    The number covers the matrices of the layers, attention, and the output head for the last position. Norms,
    rotations and softmax are less than one per cent and do not count.

    Args:
        config: configuration of the model.
        positions: number of image tokens and text tokens of the sequence.
    """
    text = config.text_config
    heads = text.num_attention_heads + text.num_key_value_heads  # query and output, key and value
    layer = 2 * heads * text.head_dim * text.hidden_size + 3 * text.hidden_size * text.intermediate_size
    attention = 2 * text.num_attention_heads * text.head_dim * positions  # scores and weighted sum
    head = text.vocab_size * text.hidden_size
    return 2 * (positions * text.num_hidden_layers * (layer + attention) + head)
