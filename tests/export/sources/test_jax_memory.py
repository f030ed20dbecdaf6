"""Reading a JAX checkpoint holds one layer in memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from jax_archive import random_arrays, write_npz
from process_memory import STATUS
from time_limits import HANG

from paligemma_onnx.model import presets

# Reads all tensors of two archives and runs their models; prints the memory that the second archive adds.
MEASURE = """
import re, sys
from pathlib import Path
import torch
from paligemma_onnx.export.sources.jax_checkpoint import open_jax_checkpoint
from paligemma_onnx.model import presets
from paligemma_onnx.model.checkpoint.load import load_model

def resident(field):
    text = Path("/proc/self/status").read_text()
    return int(re.search(field + r":\\s+(\\d+) kB", text)[1]) * 1024

def read(path):
    config, checkpoint = open_jax_checkpoint(Path(path), presets.TINY_IMAGE_TOKEN)
    assert all(checkpoint.tensor(name).isfinite().all() for name in checkpoint.names)
    with torch.inference_mode():
        features = torch.zeros(1, 16, config.text_config.hidden_size)
        load_model(config, checkpoint).prefill(torch.tensor([[2, 5]]), features, torch.tensor([2]))

torch.set_num_threads(1)
read(sys.argv[1])
before = resident("VmRSS")
read(sys.argv[2])
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="reads /proc")
def test_memory_holds_one_layer(tmp_path: Path) -> None:
    """The larger archive has 100 MB in two stacked arrays of 16 layers, and 2 MiB in the largest tensor.

    A new process reads it, so that the memory of other tests and of their tools is not counted. It reads a
    small archive first, which loads the libraries' code. The peak counts mapped pages of the archive too, and
    arrays that are freed again.
    """
    tiny = presets.tiny_gemma()
    sizes = {"hidden_size": 128, "intermediate_size": 4096, "num_hidden_layers": 16}
    large = replace(tiny, text_config=replace(tiny.text_config, **sizes))
    paths = [
        write_npz(tmp_path / f"{name}.npz", random_arrays(config)[1])
        for name, config in (("small", tiny), ("large", large))
    ]
    size = paths[1].stat().st_size
    assert size > 100e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], check=True, capture_output=True, text=True, timeout=HANG
    )
    assert 0 < int(done.stdout) < size / 4
