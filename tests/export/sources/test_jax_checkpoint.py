"""A JAX checkpoint has the tensors of the Hugging Face checkpoint that it was converted from, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from checkpoints import CASES, IMAGE_TOKEN, VOCABULARY
from jax_archive import Arrays, jax_arrays, random_arrays, read_tensors, unstack, write_npz
from safetensors.torch import save_file

from paligemma_onnx.export.demo.shipped_model import shipped_model
from paligemma_onnx.export.sources.jax_checkpoint import open_jax_checkpoint
from paligemma_onnx.export.sources.jax_config import derive_config, sizes_of
from paligemma_onnx.model import presets
from paligemma_onnx.model.checkpoint.adapter import WeightedAdapter
from paligemma_onnx.model.checkpoint.checkpoint import Checkpoint
from paligemma_onnx.model.checkpoint.load import load_model, open_checkpoint
from paligemma_onnx.model.checkpoint.tensor_names import EMBEDDING
from paligemma_onnx.model.config import PaliGemmaConfig
from training.published_layout import published_config

Folders = Callable[[str], Path]
ROWS = "llm/embedder/input_embedding"
BLOCK = "img/Transformer/encoderblock"
ATTENTION = f"{BLOCK}/MultiHeadDotProductAttention_0"


def arrays_of(folder: Path) -> Arrays:
    return jax_arrays(read_tensors(folder), json.loads((folder / "config.json").read_text()))


def assert_same(opened: Checkpoint, folder: Path, *, rows: int | None = None) -> None:
    """All tensors are equal to the stored ones in values and dtype; of the embedding, the first rows are."""
    expected = read_tensors(folder)
    assert set(opened.names) == expected.keys()
    for name, tensor in expected.items():
        actual = opened.tensor(name)
        assert actual.dtype == tensor.dtype == opened.dtype(name)
        assert actual.is_contiguous()
        limit = rows if name == EMBEDDING else None
        assert actual.shape == tensor.shape
        assert torch.equal(actual[:limit], tensor[:limit]), name


@pytest.mark.parametrize("prefix", ["params/", "", "opt/target/"])
@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_tensors_are_equal(
    checkpoint: Folders, tmp_path: Path, name: str, stacked: bool, prefix: str
) -> None:
    folder = checkpoint(name)
    arrays = arrays_of(folder) if stacked else unstack(arrays_of(folder))
    path = write_npz(tmp_path / "model.npz", arrays, prefix)
    config, opened = open_jax_checkpoint(path, IMAGE_TOKEN, folder / "config.json")
    assert config == open_checkpoint(folder)[0]
    assert_same(opened, folder)


def test_shipped_model(tmp_path: Path) -> None:
    """Its configuration follows from the shapes, except for the length of its context."""
    with shipped_model() as folder:
        path = write_npz(tmp_path / "model.npz", arrays_of(folder))
        config, opened = open_jax_checkpoint(path, 1781)
        assert_same(opened, folder)
        expected, _ = open_checkpoint(folder)
        assert config.vision_config == expected.vision_config
        assert sizes_of(config) == sizes_of(expected)
        assert config.text_config.max_position_embeddings == 8192
        assert open_jax_checkpoint(path, 1781, folder / "config.json")[0] == expected


def test_equal_numbers_of_heads(tmp_path: Path) -> None:
    """Such a model stores queries, keys and values in one array."""
    config = presets.tiny_gemma(num_key_value_heads=4)
    tensors, arrays = random_arrays(config)
    assert "llm/layers/attn/qkv_einsum/w" in arrays
    path = write_npz(tmp_path / "model.npz", arrays)
    (tmp_path / "config.json").write_text(json.dumps(published_config(config)))
    for config_file in (tmp_path / "config.json", None):
        derived, opened = open_jax_checkpoint(path, presets.TINY_IMAGE_TOKEN, config_file)
        assert derived.text_config == config.text_config
        for name, tensor in tensors.items():
            assert torch.equal(opened.tensor(name), tensor), name


# Contractions of big_vision (models/ppp/gemma.py; flax.linen's Dense, attention and Conv), then the tensor
# whose product with the flattened input is the flattened output.
CONTRACTIONS = [
    ("llm/layers/attn/q_einsum/w", (1,), "td,ndh->tnh", "language_model.layers.1.self_attn.q_proj"),
    ("llm/layers/attn/kv_einsum/w", (1, 0), "td,kdh->tkh", "language_model.layers.1.self_attn.k_proj"),
    ("llm/layers/attn/kv_einsum/w", (0, 1), "td,kdh->tkh", "language_model.layers.0.self_attn.v_proj"),
    ("llm/layers/attn/attn_vec_einsum/w", (1,), "tnh,nhd->td", "language_model.layers.1.self_attn.o_proj"),
    ("llm/layers/mlp/gating_einsum", (1, 0), "td,df->tf", "language_model.layers.1.mlp.gate_proj"),
    ("llm/layers/mlp/gating_einsum", (1, 1), "td,df->tf", "language_model.layers.1.mlp.up_proj"),
    ("llm/layers/mlp/linear", (0,), "tf,fd->td", "language_model.layers.0.mlp.down_proj"),
    (f"{BLOCK}/MlpBlock_0/Dense_0/kernel", (1,), "td,df->tf", "vision_tower.encoder.layers.1.mlp.fc1"),
    (f"{ATTENTION}/key/kernel", (1,), "td,dah->tah", "vision_tower.encoder.layers.1.self_attn.k_proj"),
    (
        f"{ATTENTION}/out/kernel",
        (0,),
        "tah,ahd->td",
        "vision_tower.encoder.layers.0.self_attn.out_proj",
    ),
    ("img/head/kernel", (), "td,df->tf", "multi_modal_projector.linear"),
]


@pytest.mark.parametrize(("key", "index", "contraction", "module"), CONTRACTIONS)
def test_products_are_those_of_big_vision(
    checkpoint: Folders, tmp_path: Path, key: str, index: tuple[int, ...], contraction: str, module: str
) -> None:
    folder = checkpoint("gemma2_window")
    arrays = arrays_of(folder)
    _, opened = open_jax_checkpoint(
        write_npz(tmp_path / "model.npz", arrays), IMAGE_TOKEN, folder / "config.json"
    )
    kernel = arrays[key][index].astype(np.float64)
    axes, letters = (
        contraction.partition(",")[0],
        contraction[contraction.index(",") + 1 :].partition("->")[0],
    )
    sizes = dict(zip(letters, kernel.shape, strict=True)) | {"t": 3}
    x = np.random.default_rng(0).standard_normal([sizes[axis] for axis in axes])
    expected = np.einsum(contraction, x, kernel).reshape(3, -1)
    weight = opened.tensor(f"{module}.weight").double().numpy()
    np.testing.assert_allclose(x.reshape(3, -1) @ weight.T, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_missing_rows_are_the_mean_of_the_others(checkpoint: Folders, tmp_path: Path, name: str) -> None:
    """Published archives end before `<image>`; the conversion adds rows for it and up to a multiple of 64."""
    folder = checkpoint(name)
    arrays = arrays_of(folder)
    arrays[ROWS] = arrays[ROWS][:IMAGE_TOKEN]
    config_file = folder / "config.json"
    path = write_npz(tmp_path / "model.npz", arrays)
    config, opened = open_jax_checkpoint(path, IMAGE_TOKEN, config_file)
    assert config.text_config.vocab_size == VOCABULARY
    assert_same(opened, folder, rows=IMAGE_TOKEN)
    table = opened.tensor(EMBEDDING)
    mean = table[:IMAGE_TOKEN].double().mean(0).to(table.dtype)
    assert torch.equal(table[IMAGE_TOKEN:], mean.expand(VOCABULARY - IMAGE_TOKEN, -1))
    # A mean of logits is below the largest logit, so that no added row is ever the best token.
    states = torch.randn(100, table.shape[1], generator=torch.Generator().manual_seed(0))
    logits = states @ table.float().T
    assert (logits[:, :IMAGE_TOKEN].amax(1) > logits[:, IMAGE_TOKEN:].amax(1)).all()
    if CASES[name].text["model_type"] == "gemma":
        derived, _ = open_jax_checkpoint(path, IMAGE_TOKEN)
        assert derived.text_config.vocab_size == 704  # 648 + 2, up to a multiple of 64


@pytest.mark.parametrize("name", CASES)
def test_model_computes_the_same(checkpoint: Folders, tmp_path: Path, name: str) -> None:
    """The layers load their weights at each call, and give the results of mapped weights."""
    folder = checkpoint(name)
    path = write_npz(tmp_path / "model.npz", arrays_of(folder))
    streamed = load_model(*open_jax_checkpoint(path, IMAGE_TOKEN, folder / "config.json"))
    mapped = load_model(*open_checkpoint(folder))
    side = mapped.config.vision_config.image_size
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ids, length = torch.tensor([[2, 300, 17, 108]]), torch.tensor([4])
    results = []
    for model in (streamed, mapped):
        with torch.inference_mode():
            features = model.encode_image(pixels)
            results.append((features, model.prefill(ids, features, length)[0]))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    linear = streamed.language_model.layers[0].mlp.gate_proj
    assert linear.weight.is_meta  # freed after the call


PUBLISHED = {
    "paligemma_3b": (presets.paligemma_3b, False),
    "paligemma2_3b": (presets.paligemma2_3b, True),
    "paligemma2_10b": (presets.paligemma2_10b, True),
    "paligemma2_28b": (presets.paligemma2_28b, True),
}


@pytest.mark.parametrize("image_size", [224, 448, 896])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_recognised(name: str, image_size: int) -> None:
    preset, is_gemma2 = PUBLISHED[name]
    expected: PaliGemmaConfig = preset(image_size)
    sizes = sizes_of(expected) | {"V": 257_152}
    assert derive_config(Path("x.npz"), sizes, 257_152, is_gemma2=is_gemma2) == expected


def test_fortran_order(checkpoint: Folders, tmp_path: Path) -> None:
    """numpy.savez keeps the order of axes in memory, and arrays of a TPU may be in Fortran order."""
    folder = checkpoint("gemma_one_kv_head")
    arrays = {f"params/{key}": np.asfortranarray(array) for key, array in arrays_of(folder).items()}
    np.savez(tmp_path / "model.npz", **arrays)  # type: ignore[arg-type]
    _, opened = open_jax_checkpoint(tmp_path / "model.npz", IMAGE_TOKEN, folder / "config.json")
    assert_same(opened, folder)


def test_adapters_are_merged(checkpoint: Folders, tmp_path: Path) -> None:
    folder, adapter = checkpoint("gemma_one_kv_head"), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 3, "bias": "none"}'
    )
    prefix = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_"
    factors = {f"{prefix}A.weight": torch.randn(2, 32), f"{prefix}B.weight": torch.randn(32, 2)}
    save_file(factors, adapter / "adapter_model.safetensors")
    path = write_npz(tmp_path / "model.npz", arrays_of(folder))
    merged = (WeightedAdapter(adapter),)
    _, opened = open_jax_checkpoint(path, IMAGE_TOKEN, folder / "config.json", merged)
    _, expected = open_checkpoint(folder, merged)
    for name in expected.names:
        assert torch.equal(opened.tensor(name), expected.tensor(name)), name


def test_bfloat16_of_jax(checkpoint: Folders, tmp_path: Path) -> None:
    """The dtype that JAX uses for bfloat16 is written as void, too, with another mark for the byte order."""
    folder = checkpoint("gemma_one_kv_head")
    arrays = {key: array.view(ml_dtypes.bfloat16) for key, array in arrays_of(folder).items()}
    _, opened = open_jax_checkpoint(
        write_npz(tmp_path / "model.npz", arrays), IMAGE_TOKEN, folder / "config.json"
    )
    assert_same(opened, folder)


def test_training_state_is_not_read(checkpoint: Folders, tmp_path: Path) -> None:
    folder = checkpoint("gemma_one_kv_head")
    arrays = {f"params/{key}": array for key, array in arrays_of(folder).items()}
    arrays |= {"opt/0/count": np.array(7), "chrono/accum_train_time": np.array(1.5)}
    path = write_npz(tmp_path / "model.npz", arrays, "")
    _, opened = open_jax_checkpoint(path, IMAGE_TOKEN, folder / "config.json")
    assert_same(opened, folder)
