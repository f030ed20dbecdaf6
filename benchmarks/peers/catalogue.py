"""The tools by name: what they are installed from, how each makes its model, which class runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """One tool with one choice of its options."""

    name: str
    environment: str  # a file in requirements/
    distribution: str  # whose version is told
    module: str
    kind: str  # the class in that module
    conversion: tuple[
        str, ...
    ]  # arguments of its interpreter; {checkpoint}, {output} and {threads} stand in them

    def command(self, python: Path, checkpoint: Path, output: Path, threads: int) -> list[str]:
        """What makes its model, the folder `output`, of a text-only checkpoint."""
        places = {"checkpoint": str(checkpoint), "output": str(output), "threads": str(threads)}
        return [str(python), *(argument.format_map(places) for argument in self.conversion)]


def _llama_cpp(kind: str) -> Peer:
    """llama.cpp; `q4_0` and `q8_0` have fast products on most processors."""
    return Peer(
        name=f"llama.cpp-{kind}",
        environment="llama.cpp",
        distribution="llama-cpp-python",
        module="benchmarks.peers.llama_cpp",
        kind="LlamaCpp",
        conversion=("-m", "benchmarks.peers.gguf_file", "{checkpoint}", "{output}", kind, "{threads}"),
    )


def _genai(block: int) -> Peer:
    """onnxruntime-genai, 4 bits with a scale for so many inputs.

    Accuracy level 4 multiplies in 8 bits. The head computes the last token's logits only, as llama.cpp's and
    ours do.
    """
    return Peer(
        name=f"genai-int4-{block}",
        environment="genai",
        distribution="onnxruntime-genai",
        module="benchmarks.peers.genai",
        kind="Genai",
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
    kind="Optimum",
    conversion=("-m", "benchmarks.peers.optimum_onnx", "{checkpoint}", "{output}"),
)

PEERS = {
    peer.name: peer for peer in (_llama_cpp("q4_0"), _llama_cpp("q8_0"), _genai(128), _genai(32), _OPTIMUM)
}
