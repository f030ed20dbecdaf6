"""Facts of the manifest, read from the files of a checkpoint and compared with its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_value
from paligemma_onnx.model.checkpoint.json_file import read_json
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.model.skeleton import meta_model
from paligemma_onnx.runtime.bundle.layout_record import LayoutRecord
from paligemma_onnx.runtime.bundle.schema import (
    BaseWeights,
    CacheFacts,
    ImageFacts,
    Manifest,
    Matrices,
    ModelFacts,
    PrecisionFacts,
    Producer,
    TokenFacts,
)

from ..graphs.specs import OPSETS
from ..precisions import PRECISIONS, Precision
from ..sources.tokenizer_file import TOKENIZER, open_tokenizer

# Files with the settings of the image processor: that of transformers 5, then that of earlier releases.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
MAX_JSON_BYTES = 1 << 20  # for JSON files of settings; published files are smaller than 2 kB

# SigLIP's preprocessing, for checkpoints without a preprocessor file. Pixels in [0, 255] are mapped to [-1,
# 1] (arXiv 2407.07726, appendix; preprocessor_config.json of the published checkpoints has the same values).
RESCALE_FACTOR = 1 / 255
MEAN = STD = (0.5, 0.5, 0.5)
BICUBIC = 3  # Pillow's number of the bicubic filter, which preprocessor files use too
# The names that transformers 4 and 5 write.
PROCESSOR_CLASSES = {f"SiglipImageProcessor{suffix}" for suffix in ("", "Fast", "Pil")}


def describe_model(config: PaliGemmaConfig, base_weights: BaseWeights = "stored") -> ModelFacts:
    """Return the sizes and constants of the model that the runtime, or a reader of the manifest, needs."""
    text = config.text_config
    return ModelFacts(
        family="paligemma" if text.model_type == "gemma" else "paligemma2",
        parameters=sum(weight.numel() for weight in meta_model(config).parameters()),
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings,
        final_logit_softcapping=text.final_logit_softcapping,
        sliding_window=text.sliding_window,
        vision_heads=config.vision_config.num_attention_heads,
        base_weights=base_weights,
    )


def describe_cache(config: PaliGemmaConfig, precision: Precision) -> CacheFacts:
    """Return the shape, the dtype and the kind of update of the KV cache."""
    text = config.text_config
    return CacheFacts(
        layers=text.num_hidden_layers,
        heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        dtype=precision.activations,
        update=precision.cache,
        layout="slots_heads" if precision.is_in_place_float32 else "heads_slots",
    )


def describe_precision(precision_name: str) -> PrecisionFacts:
    """Return the storage formats of the matrices and the devices on which the graphs run."""
    precision = PRECISIONS[precision_name]
    matrices = Matrices(
        vision_encoder=str(precision.vision_encoder),
        prefill=str(precision.prefill),
        decode=str(precision.decode),
        embedding=str(precision.embedding),
    )
    opset = OPSETS[precision.cache]
    return PrecisionFacts(precision_name, opset, matrices, precision.wide_batch, precision.devices)


def describe_producer() -> Producer:
    """Return the versions of the software on which the exported graphs depend."""
    return Producer(version("paligemma-onnx"), version("torch"), version("onnx"))


def find_difference(bundle: Manifest | LayoutRecord, checkpoint: Manifest) -> str | None:
    """Return a description of the first fact of the model that differs, or None if all facts agree."""
    for part in ("model", "image", "tokens", "cache"):
        expected = asdict(getattr(checkpoint, part))
        for name, value in asdict(getattr(bundle, part)).items():
            if value != expected[name]:
                return (
                    f"{part}.{name} is {quote_value(value)}, the checkpoint has {quote_value(expected[name])}"
                )
    return None


def read_image_facts(folder: Path, config: PaliGemmaConfig) -> ImageFacts:
    """Return the settings of the image processor, compared with config.json.

    transformers 5 writes the settings to processor_config.json, under `image_processor`; earlier releases
    write preprocessor_config.json. If a folder has both files, processor_config.json is read.

    Raises:
        CheckpointError: the file is damaged, or requires preprocessing that the runtime does not implement.
    """
    vision = config.vision_config
    name, settings = next(iter(_read_processors(folder).items()), (PROCESSOR_FILES[-1], {}))
    path = folder / name
    _check_processor(path, settings, vision.image_size)
    return ImageFacts(
        size=vision.image_size,
        tokens=vision.num_patches,
        rescale_factor=_check_number(
            path, "rescale_factor", _get(settings, "rescale_factor", RESCALE_FACTOR)
        ),
        mean=_check_triple(path, "image_mean", _get(settings, "image_mean", MEAN)),
        std=_check_triple(path, "image_std", _get(settings, "image_std", STD)),
    )


def _check_processor(path: Path, settings: Mapping[str, object], side: int) -> None:
    """Raise CheckpointError if the image processor computes other pixels than the runtime."""
    remedy = (
        f"take {path.name} from the base model, unless the model was trained with this setting; the runtime "
        "does not implement it"
    )
    kind = settings.get("image_processor_type")
    if kind is not None and kind not in PROCESSOR_CLASSES:
        raise CheckpointError(
            f"{path}: image_processor_type is {quote_value(kind)}, expected 'SiglipImageProcessor'; {remedy}"
        )
    for key, expected in _required_settings(side).items():
        value = settings.get(key)
        if value is None or value == expected:
            continue
        if key == "size" and isinstance(value, dict) and value.keys() == {"height", "width"}:
            remedy = (
                f"image_size in config.json is {side}; take both files from the checkpoint of the model's "
                "resolution"
            )
        problem = f"{key} {quote_value(value)}, expected {expected!r}"
        raise CheckpointError(f"{path}: the image processor has {problem}; {remedy}")


def find_processor_conflict(folder: Path, config: PaliGemmaConfig) -> str | None:
    """Return a note for the user if a folder has two different image processors, or else None."""
    processors = _read_processors(folder)
    if len(processors) < 2:
        return None
    (taken, settings), (other, older) = processors.items()
    defaults: dict[str, object] = {"rescale_factor": RESCALE_FACTOR, "image_mean": MEAN, "image_std": STD}
    defaults |= _required_settings(config.vision_config.image_size)
    different = [
        key for key, default in defaults.items() if _get(settings, key, default) != _get(older, key, default)
    ]
    if not different:
        return None
    names = ", ".join(different)
    return f"{folder}: {taken} and {other} differ in {names}; {taken} was used, as in transformers 5"


def read_token_facts(folder: Path, config: PaliGemmaConfig, tokenizer_file: Path | None = None) -> TokenFacts:
    """Return the special ids of tokenizer.json and generation_config.json, compared with config.json.

    Args:
        folder: folder of the checkpoint, or an .npz archive.
        config: the configuration.
        tokenizer_file: path of tokenizer.json; None means the file in the folder.

    Raises:
        CheckpointError: tokenizer.json is missing, damaged or has another vocabulary.
    """
    path = tokenizer_file or folder / TOKENIZER
    tokenizer = open_tokenizer(path)
    image, rows = tokenizer.image_id, config.text_config.vocab_size
    vocabulary = set(tokenizer.library.get_vocab(with_added_tokens=True).values())
    # The row of `<image>` is never looked up, and some checkpoints (pi0) do not have it.
    if any(token >= rows for token in vocabulary - {image}):
        raise CheckpointError(f"{path}: has {tokenizer.size} tokens, the embedding only {rows} rows")
    if config.image_token_index != image:
        raise CheckpointError(
            f"{path}: `<image>` is {image}, config.json has image_token_index {config.image_token_index}"
        )
    stop = _read_stop_ids(folder, tokenizer.eos_id)
    if not all(0 <= token < rows for token in stop):
        raise CheckpointError(
            f"{folder}: generation_config.json has eos_token_id {list(stop)} outside the embedding"
        )
    return TokenFacts(
        file=TOKENIZER,
        bos=tokenizer.bos_id,
        pad=tokenizer.pad_id,
        image=image,
        stop=stop,
        suppressed=tuple(sorted(set(range(rows)) - (vocabulary - {image}))),
    )


def _get(settings: Mapping[str, object], key: str, default: object) -> object:
    value = settings.get(key)
    return default if value is None else value


def _read_processors(folder: Path) -> dict[str, Mapping[str, object]]:
    """Return the settings of the folder's image processors by file name; an export uses the first."""
    processors: dict[str, Mapping[str, object]] = {}
    for name in PROCESSOR_FILES:
        if not (folder / name).exists():
            continue
        content = read_json(folder / name, MAX_JSON_BYTES)
        # Earlier releases wrote a processor_config.json without image settings.
        nested = content.get("image_processor", {} if name == "processor_config.json" else content)
        if not isinstance(nested, dict | None):
            raise CheckpointError(
                f"{folder / name}: image_processor is {quote_value(nested)}, expected an object"
            )
        if nested:
            processors[name] = {key: _normalize(key, value) for key, value in nested.items()}
    return processors


def _required_settings(side: int) -> dict[str, object]:
    """Return the settings that the runtime implements, for images of side x side pixels."""
    return {
        "size": {"height": side, "width": side},
        "resample": BICUBIC,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_center_crop": False,
        "do_pad": False,
    }


def _normalize(key: str, value: object) -> object:
    """Return a setting in one form for all releases: a size as height and width, a list as a tuple."""
    if key == "size" and type(value) is int:  # early releases; transformers reads it as a square
        return {"height": value, "width": value}
    if isinstance(value, dict):  # newer files also list settings that are null
        return {name: number for name, number in value.items() if number is not None}
    return tuple(value) if isinstance(value, list) else value


def _check_number(path: Path, key: str, value: object) -> float:
    # The mean may be 0: pixels from 0 to 1. The other numbers are factors and divisors.
    is_mean = key == "image_mean"
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (0 < value <= 1 or (is_mean and value == 0))
    ):
        interval = "[0, 1]" if is_mean else "(0, 1]"
        raise CheckpointError(
            f"{path}: the image processor has {key} {quote_value(value)}, expected a number in {interval}"
        )
    return float(value)


def _check_triple(path: Path, key: str, value: object) -> tuple[float, float, float]:
    if not isinstance(value, tuple) or len(value) != 3:
        stated = quote_value(list(value) if isinstance(value, tuple) else value)
        raise CheckpointError(f"{path}: the image processor has {key} {stated}, expected three numbers")
    red, green, blue = (_check_number(path, key, channel) for channel in value)
    return red, green, blue


def _read_stop_ids(folder: Path, eos: int) -> tuple[int, ...]:
    path = folder / "generation_config.json"
    stop = read_json(path, MAX_JSON_BYTES).get("eos_token_id") if path.exists() else None
    if stop is None:
        return (eos,)
    ids = stop if isinstance(stop, list) else [stop]
    if not ids or not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise CheckpointError(f"{path}: eos_token_id is {quote_value(stop)}, expected an id or a list of ids")
    return tuple(ids)
