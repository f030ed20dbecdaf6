"""The self-check of an export fails for a wrong bundle, and then the export leaves no files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from exporting import RecordingProgress

from paligemma_onnx.export.bundle import weight_file as weights
from paligemma_onnx.export.cli.commands import export as export_command
from paligemma_onnx.export.exporter import ExportRequest, export
from paligemma_onnx.export.quantization.quantize_graph import StoredTensor
from paligemma_onnx.export.source import Source, open_source
from paligemma_onnx.export.sources.tensor_source import TensorSource
from paligemma_onnx.export.validation.compare import compare
from paligemma_onnx.export.validation.measures import Comparison
from paligemma_onnx.export.validation.reference_outputs import run_reference
from paligemma_onnx.export.validation.self_check import (
    PROMPTS,
    STEPS,
    build_validation_inputs,
    self_check,
    synthetic_image,
)
from paligemma_onnx.model.checkpoint.load import load_model
from paligemma_onnx.runtime.bundle.manifest import read_manifest
from paligemma_onnx.runtime.bundle.schema import Manifest
from paligemma_onnx.runtime.engine.devices import choose_placement
from paligemma_onnx.runtime.errors import MismatchError
from paligemma_onnx.runtime.graphs.onnx_runner import OnnxModelRunner
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

Folders = Callable[[str], Path]
Change = Callable[[torch.Tensor], torch.Tensor]
CASE = "gemma_one_kv_head"
FINAL_NORM = "language_model.norm.weight"


def by_one_per_cent(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() * 1.01


def one_element_by_one_rounding(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.float().clone()
    changed[17] = torch.nextafter(changed[17], torch.tensor(torch.inf))
    return changed


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float().t().reshape(tensor.shape)


def change_stored(folder: Path, manifest: Manifest, name: str, change: Change) -> None:
    """Apply `change` to a tensor in a bundle's weight file."""
    initializers = [ir.load(folder / graph.file).graph.initializers for graph in manifest.graphs.all]
    stored = next(graph[name].const_value for graph in initializers if name in graph)
    assert isinstance(stored, ir.ExternalTensor)
    changed = change(torch.from_numpy(stored.numpy().copy()))
    with (folder / stored.location).open("r+b") as file:
        file.seek(stored.offset or 0)
        file.write(changed.contiguous().numpy().tobytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("language_model.layers.1.mlp.up_proj.weight", by_one_per_cent),
        ("language_model.embed_tokens.weight", by_one_per_cent),
        ("vision_tower.embeddings.patch_embedding.weight", by_one_per_cent),
        ("language_model.layers.0.self_attn.k_proj.weight", transposed),
        (FINAL_NORM, one_element_by_one_rounding),
        ("vision_tower.post_layernorm.bias", one_element_by_one_rounding),
        ("language_model.rotation.cos", one_element_by_one_rounding),
    ],
)
def test_wrongly_written_weights_are_found(
    checkpoint: Folders, tmp_path: Path, name: str, change: Change
) -> None:
    def change_and_check(folder: Path, manifest: Manifest, source: Source) -> None:
        change_stored(folder, manifest, name, change)
        self_check(folder, manifest, source, lambda _: None)

    request = ExportRequest(checkpoint(CASE), tmp_path / "bundle")
    with pytest.raises(MismatchError, match=f"1 of .* stored tensors differ .* {name}") as caught:
        export(request, RecordingProgress(), change_and_check)
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # no bundle, no staging folder, no lock


@pytest.mark.slow
def test_the_command_line_checks_unless_it_is_told_not_to(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Folders, tmp_path: Path
) -> None:
    """No option makes the command write a wrong tensor, so the function that reads them is replaced."""
    read_tensor = weights.read_tensor

    def read_wrongly(
        stored: StoredTensor, source: TensorSource, constants: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        tensor = read_tensor(stored, source, constants)
        return by_one_per_cent(tensor) if stored.name == FINAL_NORM else tensor

    monkeypatch.setattr(weights, "read_tensor", read_wrongly)
    call = [str(checkpoint(CASE)), "--output", str(tmp_path / "bundle")]
    checked = CliRunner().invoke(export_command, call)
    assert isinstance(checked.exception, MismatchError)
    assert list(tmp_path.iterdir()) == []
    unchecked = CliRunner().invoke(export_command, [*call, "--no-validate"])
    assert unchecked.exit_code == 0, unchecked.output
    assert "not validated" in unchecked.output
    assert read_manifest(tmp_path / "bundle").cache.layers == 2


@pytest.fixture(scope="module")
def compare_outputs(checkpoint: Folders, bundle: Folders) -> Iterator[Callable[[Path], Comparison]]:
    """Compares the outputs of a bundle and not its weights."""
    manifest = read_manifest(bundle(CASE))
    tokenizer = PromptTokenizer.load(bundle(CASE) / manifest.tokens.file)
    pixels = synthetic_image(manifest.image.size)[None]
    inputs = build_validation_inputs(manifest, tokenizer, pixels, PROMPTS, STEPS)
    source = open_source(checkpoint(CASE))
    with tempfile.TemporaryDirectory() as scratch:
        reference = run_reference(
            load_model(source.config, source.checkpoint), inputs, Path(scratch), lambda _: None
        )

        def compare_bundle(folder: Path) -> Comparison:
            runner = OnnxModelRunner.open(folder, manifest, choose_placement("cpu", None))
            return compare(runner, inputs, reference, lambda _: None)

        yield compare_bundle


def test_outputs_of_the_sound_bundle_pass(
    compare_outputs: Callable[[Path], Comparison], bundle: Folders
) -> None:
    comparison = compare_outputs(bundle(CASE))
    worst = max(difference.relative for difference in comparison.differences)
    print(f"sound bundle: worst error {worst:.1e} of the largest value")
    assert comparison.passed
    assert worst < 1e-5


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("vision_tower.encoder.layers.1.mlp.fc1.weight", "vision"),
        ("multi_modal_projector.linear.weight", "vision"),
        ("language_model.layers.0.self_attn.q_proj.weight", "prefill"),
        ("language_model.layers.0.self_attn.o_proj.weight", "prefill"),
        ("language_model.layers.1.mlp.gate_proj.weight", "prefill"),
        ("language_model.layers.1.mlp.down_proj.weight", "prefill"),
    ],
)
def test_outputs_alone_betray_one_per_cent(
    checkpoint: Folders,
    bundle: Folders,
    compare_outputs: Callable[[Path], Comparison],
    tmp_path: Path,
    name: str,
    stage: str,
) -> None:
    shutil.copytree(bundle(CASE), tmp_path / "bundle")
    source = open_source(checkpoint(CASE))
    stored = source.checkpoint.tensor(name).float().t().contiguous().numpy().tobytes()
    file = tmp_path / "bundle" / ("decoder.data" if "language_model" in name else "vision_encoder.data")
    content = file.read_bytes()
    assert content.count(stored) == 1
    scaled = (np.frombuffer(stored, np.float32) * np.float32(1.01)).tobytes()
    file.write_bytes(content.replace(stored, scaled))
    comparison = compare_outputs(tmp_path / "bundle")
    failed = [difference for difference in comparison.differences if not difference.passed]
    worst = max(difference.relative for difference in comparison.differences)
    print(f"{name} by 1 %: worst error {worst:.1e} of the largest value")
    assert not comparison.passed
    assert stage in {difference.stage for difference in failed}
