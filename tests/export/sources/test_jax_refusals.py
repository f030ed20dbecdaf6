"""Archives whose arrays are not those of the model are refused; the message names the arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoints import IMAGE_TOKEN
from jax_archive import Arrays, jax_arrays, read_tensors, unstack, write_npz

from paligemma_onnx.export.sources.jax_checkpoint import open_jax_checkpoint
from paligemma_onnx.model.checkpoint.errors import CheckpointError

Folders = Callable[[str], Path]
Damage = Callable[[Arrays], object]
GEMMA, GEMMA2 = "gemma_one_kv_head", "gemma2_window"
ROWS, QUERY, KERNEL = "llm/embedder/input_embedding", "llm/layers/attn/q_einsum/w", "img/head/kernel"
POST_NORM, PATCHES = "llm/layers/post_ffw_norm/scale", "img/pos_embedding"
MLP = "img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel"


def arrays_of(folder: Path) -> Arrays:
    return jax_arrays(read_tensors(folder), json.loads((folder / "config.json").read_text()))


def dropping(key: str) -> Damage:
    return lambda arrays: arrays.pop(key)


def adding(key: str) -> Damage:
    return lambda arrays: arrays.update({key: np.ones(3, np.float32)})


def changing(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    return lambda arrays: arrays.update({key: change(arrays[key])})


def unstacking(dropped: str) -> Damage:
    def damage(arrays: Arrays) -> None:
        numbered = unstack(arrays)
        del numbered[dropped]
        arrays.clear()
        arrays.update(numbered)

    return damage


DAMAGES: list[tuple[str, Damage, str]] = [
    (GEMMA, dropping(QUERY), f"missing (1): {QUERY}"),
    (GEMMA, dropping(ROWS), f"missing (1): {ROWS}"),
    (GEMMA2, dropping(POST_NORM), f"missing (1): {POST_NORM}"),
    (GEMMA, adding("llm/layers/attn/bias"), "unknown (1): params/llm/layers/attn/bias"),
    (GEMMA, adding("img/MAPHead_0/probe"), "unknown (1): params/img/MAPHead_0/probe"),
    (GEMMA, adding(POST_NORM), "missing (1): llm/layers/post_attention_norm/scale"),
    (
        GEMMA,
        changing(QUERY, lambda a: a.swapaxes(2, 3)),
        f"misshapen (1): params/{QUERY} [2, 4, 8, 32] instead of",
    ),
    (GEMMA, changing(QUERY, lambda a: a[:1]), f"params/{QUERY} [1, 4, 32, 8] instead of [2, 4, 32, 8]"),
    (GEMMA, changing(KERNEL, lambda a: a.T), f"params/{KERNEL} [32, 24] instead of [24, 32]"),
    (GEMMA, changing(MLP, lambda a: a[..., None]), f"params/{MLP} [2, 24, 40, 1] instead of [2, 24, 40]"),
    (GEMMA, changing(ROWS, lambda a: a[:0]), f"params/{ROWS} [0, 32] instead of [0, 32]"),
    (GEMMA, changing(ROWS, lambda a: a[: IMAGE_TOKEN - 1]), "has 647 rows, <image> has the id 648"),
    (GEMMA, changing(ROWS, lambda a: np.concatenate([a, a])), "has 1312 rows"),
    (GEMMA, changing(PATCHES, lambda a: a[:, :3]), f"params/{PATCHES} [1, 3, 24] instead of [1, 4, 24]"),
    (GEMMA, changing(ROWS, lambda a: a.view(np.int16)), f"params/{ROWS} is <i2"),
    (GEMMA, changing(QUERY, lambda a: np.zeros(a.shape)), f"params/{QUERY} is <f8"),
    (GEMMA2, changing(QUERY, lambda a: a.astype(">f4")), f"params/{QUERY} is >f4"),
    (GEMMA, unstacking("llm/layers/1/mlp/linear"), "missing (1): llm/layers/1/mlp/linear"),
    (GEMMA, unstacking("llm/layers/0/pre_ffw_norm/scale"), "missing (1): llm/layers/0/pre_ffw_norm/scale"),
    (GEMMA, adding("llm/layers/900/mlp/linear"), "unknown"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_arrays_are_refused(
    checkpoint: Folders, tmp_path: Path, name: str, damage: Damage, message: str
) -> None:
    arrays = arrays_of(checkpoint(name))
    damage(arrays)
    path = write_npz(tmp_path / "model.npz", arrays)
    with pytest.raises(CheckpointError) as caught:
        open_jax_checkpoint(path, IMAGE_TOKEN, checkpoint(name) / "config.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 1500


def test_shapes_must_determine_the_configuration(checkpoint: Folders, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "model.npz", arrays_of(checkpoint(GEMMA2)))
    with pytest.raises(CheckpointError, match=r"shapes do not tell .* give --config config.json"):
        open_jax_checkpoint(path, IMAGE_TOKEN)


@pytest.mark.parametrize(("layers", "stated"), [(1, 3), (3, 1)])
def test_number_of_layers(checkpoint: Folders, tmp_path: Path, layers: int, stated: int) -> None:
    """Numbered layers are counted, since no axis has their number."""
    config = json.loads((checkpoint(GEMMA) / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = stated
    (tmp_path / "config.json").write_text(json.dumps(config))
    arrays = {
        key: np.resize(array, (layers, *array.shape[1:])) if key.startswith("llm/layers/") else array
        for key, array in arrays_of(checkpoint(GEMMA)).items()
    }
    path = write_npz(tmp_path / "model.npz", unstack(arrays))
    with pytest.raises(CheckpointError, match=f"number of layers .*: {layers} instead of {stated}"):
        open_jax_checkpoint(path, IMAGE_TOKEN, tmp_path / "config.json")


def test_configuration_of_another_family(checkpoint: Folders, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "model.npz", arrays_of(checkpoint(GEMMA)))
    with pytest.raises(CheckpointError, match=r"misshapen .*instead of"):
        open_jax_checkpoint(path, IMAGE_TOKEN, checkpoint(GEMMA2) / "config.json")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"params/img/embedding/bias": np.ones(3)}, "missing"),
        ({"params/a": np.ones(3), "rng": np.ones(3)}, "holds unknown arrays (1): rng"),
        ({"encoder.0": np.ones(3)}, "missing"),
    ],
)
def test_archives_of_other_models(tmp_path: Path, arrays: Arrays, message: str) -> None:
    path = write_npz(tmp_path / "model.npz", arrays, "")
    with pytest.raises(CheckpointError) as caught:
        open_jax_checkpoint(path, IMAGE_TOKEN)
    assert message in str(caught.value)


def test_two_grids_that_are_not_square(checkpoint: Folders, tmp_path: Path) -> None:
    arrays = arrays_of(checkpoint(GEMMA))
    arrays[PATCHES] = arrays[PATCHES][:, :3]
    path = write_npz(tmp_path / "model.npz", arrays)
    with pytest.raises(CheckpointError, match="not those of square images"):
        open_jax_checkpoint(path, IMAGE_TOKEN)
