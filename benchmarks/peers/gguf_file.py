"""Convert a Gemma checkpoint to a quantized GGUF file. Runs in the environment of llama-cpp-python.

python -m benchmarks.peers.gguf_file CHECKPOINT FOLDER q4_0|q8_0 THREADS

The tensors are first written unchanged to a bfloat16 file, which llama.cpp then quantises. llama.cpp chooses
which tensors to store in more bits (6 bits for an embedding that is also the output head), as it does for its
users.
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


def main(checkpoint: Path, folder: Path, kind: str, threads: int) -> None:
    """Convert a checkpoint to FOLDER/model.gguf."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "bf16.gguf"
    write_bf16(checkpoint, whole)
    quantize(whole, folder / FILE, kind, threads)
    whole.unlink()


def write_bf16(checkpoint: Path, file: Path) -> None:
    """Write a checkpoint as a bfloat16 GGUF file.

    The file has GGUF's tensor names and the sizes that llama.cpp needs, but no vocabulary.
    """
    import gguf  # noqa: PLC0415  the tests of the other functions run without this package

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
        gguf_name = names.get_name(name, try_suffixes=(".weight",))
        if gguf_name is None:
            raise ValueError(f"GGUF has no name for {name}")
        if bits.ndim == 1:
            writer.add_tensor(gguf_name, norm_weight(bits))
        else:
            writer.add_tensor(gguf_name, bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, target: Path, kind: str, threads: int) -> None:
    """Quantise a GGUF file as the program `llama-quantize` does.

    Raises:
        RuntimeError: llama.cpp reports an error.
    """
    import llama_cpp as api  # noqa: PLC0415

    options = api.llama_model_quantize_default_params()
    options.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    options.nthread = threads
    code = api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options))
    if code != 0:
        raise RuntimeError(f"llama_model_quantize returned {code}")


def sizes(config: Mapping[str, Any]) -> dict[str, int | float]:
    """Return the model sizes by their GGUF keys, without the prefix of the architecture."""
    keys: dict[str, int | float] = {
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
        keys |= {
            "attn_logit_softcapping": float(config["attn_logit_softcapping"]),
            "final_logit_softcapping": float(config["final_logit_softcapping"]),
            "attention.sliding_window": config["sliding_window"],
        }
    return keys


def norm_weight(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the gain of a norm in float32, given its bfloat16 bits in the checkpoint.

    Gemma checkpoints store the gain minus 1, GGUF files store the gain.
    """
    # A bfloat16 number is the upper half of a float32 number.
    return (bits.astype(np.uint32) << 16).view(np.float32) + np.float32(1)


def tensors(checkpoint: Path) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Yield the name and the memory-mapped bits of each tensor in the safetensors files of a checkpoint.

    Source of the file format: huggingface.co/docs/safetensors.

    Raises:
        ValueError: a tensor is not bfloat16.
    """
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
