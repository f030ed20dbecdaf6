"""Catalogue of the other tools: the installation, the conversion of the checkpoint, and the class to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """A tool with its options."""

    name: str
    environment: str  # name of a file in requirements/, without the suffix
    distribution: str  # package whose version the report states
    module: str  # module of the `Decoder`
    class_name: str
    # Arguments with which the environment's Python interpreter converts a checkpoint. `command` replaces
    # {checkpoint}, {output} and {threads}.
    conversion: tuple[str, ...]

    def command(self, python: Path, checkpoint: Path, output: Path, threads: int) -> list[str]:
        """Return the command that converts a text-only checkpoint to a model in the folder `output`."""
        values = {"checkpoint": str(checkpoint), "output": str(output), "threads": str(threads)}
        return [str(python), *(argument.format_map(values) for argument in self.conversion)]


def _llama_cpp(kind: str) -> Peer:
    """Return llama.cpp with the given quantization; `q4_0` and `q8_0` are fast on most processors."""
    return Peer(
        name=f"llama.cpp-{kind}",
        environment="llama.cpp",
        distribution="llama-cpp-python",
        module="benchmarks.peers.llama_cpp",
        class_name="LlamaCpp",
        conversion=("-m", "benchmarks.peers.gguf_file", "{checkpoint}", "{output}", kind, "{threads}"),
    )


def _genai(block: int) -> Peer:
    """Return onnxruntime-genai with 4-bit weights and one scale per `block` inputs.

    With accuracy level 4, activations are quantised to 8 bits. The output head computes only the logits of
    the last position, as in llama.cpp and in a bundle.
    """
    return Peer(
        name=f"genai-int4-{block}",
        environment="genai",
        distribution="onnxruntime-genai",
        module="benchmarks.peers.genai",
        class_name="Genai",
        conversion=(
            *("-m", "onnxruntime_genai.models.builder", "-i", "{checkpoint}", "-o", "{output}"),
            *("-p", "int4", "-e", "cpu", "-c", "{output}/cache", "--extra_options"),
            *("accuracy_level=4", f"block_size={block}", "prune_lm_head=true", "hf_token=false"),
        ),
    )


_OPTIMUM = Peer(
    name="optimum",
    environment="optimum",
    distribution="optimum-onnx",
    module="benchmarks.peers.optimum_onnx",
    class_name="Optimum",
    conversion=("-m", "benchmarks.peers.optimum_onnx", "{checkpoint}", "{output}"),
)

PEERS = {
    peer.name: peer for peer in (_llama_cpp("q4_0"), _llama_cpp("q8_0"), _genai(128), _genai(32), _OPTIMUM)
}
