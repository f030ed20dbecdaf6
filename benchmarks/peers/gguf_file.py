"""A Gemma checkpoint as a GGUF file of fewer bits. Runs in llama-cpp-python's environment.

python -m benchmarks.peers.gguf_file CHECKPOINT FOLDER q4_0|q8_0 THREADS

The tensors go to a bfloat16 file as they are, and llama.cpp's own quantiser makes the other from it: which
tensors it keeps wider (it takes 6 bits for a table that is the head, too) is part of what a user gets.
"""

from __future__ import annotations

import ctypes
import json
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "model.gguf"
ONE = np.float32(1.0)


def main(checkpoint: Path, folder: Path, kind: str, threads: int) -> None:
    """Write FOLDER/model.gguf."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "bf16.gguf"
    write_bf16(checkpoint, whole)
    quantise(whole, folder / FILE, kind, threads)
    whole.unlink()


def write_bf16(checkpoint: Path, file: Path) -> None:
    """The checkpoint's tensors under GGUF's names, with the sizes llama.cpp asks for and no vocabulary."""
    import gguf  # noqa: PLC0415  what stands above needs none of the tool, and is tested without it

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    architecture, layers = config["model_type"], config["num_hidden_layers"]
    writer = gguf.GGUFWriter(file, architecture)
    for key, value in sizes(config).items():
        kind = gguf.GGUFValueType.FLOAT32 if isinstance(value, float) else gguf.GGUFValueType.UINT32
        writer.add_key_value(f"{architecture}.{key}", value, kind)
    writer.add_tokenizer_model("none")
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], layers)
    for name, bits in tensors(checkpoint):
        theirs = names.get_name(name, try_suffixes=(".weight",))
        if theirs is None:
            raise ValueError(f"GGUF has no name for {name}")
        if bits.ndim == 1:
            writer.add_tensor(theirs, norm_weight(bits))
        else:
            writer.add_tensor(theirs, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source: Path, target: Path, kind: str, threads: int) -> None:
    """As `llama-quantize` does.

    Raises:
        RuntimeError: it does not.
    """
    import llama_cpp as api  # noqa: PLC0415  as above

    options = api.llama_model_quantize_default_params()
    options.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    options.nthread = threads
    code = api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options))
    if code != 0:
        raise RuntimeError(f"llama_model_quantize gave {code}")


def sizes(config: Mapping[str, Any]) -> dict[str, int | float]:
    """What llama.cpp reads of a model, by its key behind the architecture's name."""
    found: dict[str, int | float] = {
        "vocab_size": config["vocab_size"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(config["rope_theta"]),
    }
    if config["model_type"] == "gemma2":
        found |= {
            "attn_logit_softcapping": float(config["attn_logit_softcapping"]),
            "final_logit_softcapping": float(config["final_logit_softcapping"]),
            "attention.sliding_window": config["sliding_window"],
        }
    return found


def norm_weight(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """A norm's gain: Gemma stores what is added to 1, GGUF what is multiplied with."""
    # A bfloat16 is the upper half of a float32.
    return (bits.astype(np.uint32) << 16).view(np.float32) + ONE


def tensors(checkpoint: Path) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Name and bits of each bfloat16 tensor, mapped from its file (huggingface.co/docs/safetensors)."""
    for file in sorted(checkpoint.glob("*.safetensors")):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header: dict[str, Any] = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        content = np.memmap(file, dtype=np.uint8, mode="r", offset=8 + length)
        for name, entry in header.items():
            if entry["dtype"] != "BF16":
                raise ValueError(f"{file}: {name} is {entry['dtype']}, expected BF16")
            begin, end = entry["data_offsets"]
            yield name, content[begin:end].view(np.uint16).reshape(entry["shape"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
