"""Output heads that differ from the embedding: the bundle stores a second matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import CASES, make_model
from exporting import export_checked
from untied_checkpoint import write_untied_checkpoint

from paligemma_onnx.export.exporter import ExportRequest
from paligemma_onnx.export.precisions import PRECISIONS
from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.runtime.bundle.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning:peft")]

Folders = Callable[[str], Path]
CASE = "gemma2_window"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> WeightedAdapter:
    """An adapter of the embedding, whose matrix PEFT saves too."""
    import peft

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=["embed_tokens"])
    adapted = peft.get_peft_model(make_model(CASES[CASE]), config)
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        adapted.save_pretrained(folder)
    return WeightedAdapter(folder)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bundle_agrees_with_torch(
    checkpoint: Folders, bundle: Folders, adapter: WeightedAdapter, tmp_path: Path, precision: str
) -> None:
    request = ExportRequest(checkpoint(CASE), tmp_path / "b", precision=precision, adapters=(adapter,))
    manifest = export_checked(request)
    rows, width = manifest.model.vocab_size, manifest.model.hidden_size
    assert manifest.model.parameters == read_manifest(bundle(CASE)).model.parameters + rows * width


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_checkpoint_with_a_stored_head(bundle: Folders, tmp_path: Path, precision: str) -> None:
    write_untied_checkpoint(CASE, tmp_path / "checkpoint")
    manifest = export_checked(ExportRequest(tmp_path / "checkpoint", tmp_path / "b", precision=precision))
    rows, width = manifest.model.vocab_size, manifest.model.hidden_size
    assert manifest.model.parameters == read_manifest(bundle(CASE)).model.parameters + rows * width
