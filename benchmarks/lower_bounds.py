"""What a decode step and a prefill cannot beat on a machine, by arithmetic.

A decode step of one row reads every weight of the decoder once and is limited by how fast memory is read. A
prefill multiplies hundreds of rows with each and is limited by how fast matrices are multiplied.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from paligemma_onnx.model.config import PaliGemmaConfig

LOOKUPS = frozenset({"Gather", "GatherBlockQuantized"})  # read a row of a table, not the table


def decode_floor_s(read_bytes: int, bytes_per_s: float) -> float:
    """Seconds of a decode step that does nothing but read."""
    return read_bytes / bytes_per_s


def prefill_floor_s(operations: int, operations_per_s: float) -> float:
    """Seconds of a prefill that does nothing but multiply matrices."""
    return operations / operations_per_s


def weight_bytes(graph: Path) -> int:
    """Bytes of weights that one run of a graph reads: all but tables in which it only looks rows up."""
    model = onnx.load(graph, load_external_data=False)
    read = {name for node in model.graph.node if node.op_type not in LOOKUPS for name in node.input}
    places: dict[tuple[str, str], int] = {}
    small = 0
    for tensor in model.graph.initializer:
        if tensor.name not in read:
            continue
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where:  # two names may stand for one place
            places[where["location"], where.get("offset", "0")] = int(where["length"])
        else:
            small += tensor.ByteSize()
    return small + sum(places.values())


def prefill_operations(config: PaliGemmaConfig, tokens: int) -> int:
    """Multiplications and additions of a prefill of T tokens: layers, attention, and the head for one row.

    Norms, rotations and softmax are left out: together they are under a hundredth.
    """
    text = config.text_config
    heads = text.num_attention_heads + text.num_key_value_heads  # query and output, key and value
    layer = 2 * heads * text.head_dim * text.hidden_size + 3 * text.hidden_size * text.intermediate_size
    attention = 2 * text.num_attention_heads * text.head_dim * tokens  # scores and what they mix, a token
    head = text.vocab_size * text.hidden_size
    return 2 * (tokens * text.num_hidden_layers * (layer + attention) + head)
