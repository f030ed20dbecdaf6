"""What the manifest says of a model: read from the checkpoint's own files, and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from paligemma_onnx.model.checkpoint.errors import CheckpointError, quote_value
from paligemma_onnx.model.checkpoint.json_file import read_json
from paligemma_onnx.model.config import PaliGemmaConfig
from paligemma_onnx.runtime.bundle.schema import (
    CacheFacts,
    ImageFacts,
    Manifest,
    Matrices,
    ModelFacts,
    Producer,
    TokenFacts,
)
from paligemma_onnx.runtime.errors import BundleError
from paligemma_onnx.runtime.text.tokenizer import PromptTokenizer

from ..precisions import Precision

TOKENIZER = "tokenizer.json"
MAX_JSON_BYTES = 1 << 20  # of a settings file; published ones are under 2 kB

# SigLIP's preprocessing, for checkpoints without a preprocessor file: pixels of [0, 255] become [-1, 1]
# (arXiv 2407.07726, appendix; `preprocessor_config.json` of the published checkpoints says the same).
RESCALE_FACTOR = 1 / 255
MEAN = STD = (0.5, 0.5, 0.5)
BICUBIC = 3  # PIL's number of the filter, which the preprocessor file uses


def model_facts(config: PaliGemmaConfig, parameters: int) -> ModelFacts:
    """Facts of the decoder that the driver or a reader needs."""
    text = config.text_config
    return ModelFacts(
        family="paligemma" if text.model_type == "gemma" else "paligemma2",
        parameters=parameters,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings,
        final_logit_softcapping=text.final_logit_softcapping,
        sliding_window=text.sliding_window,
        vision_heads=config.vision_config.num_attention_heads,
    )


def cache_facts(config: PaliGemmaConfig, precision: Precision) -> CacheFacts:
    """Shape and dtype of the key-value cache, and how it is updated."""
    text = config.text_config
    return CacheFacts(
        text.num_hidden_layers,
        text.num_key_value_heads,
        text.head_dim,
        precision.activations,
        precision.cache,
    )


def matrices(precision: Precision) -> Matrices:
    """Describe a precision as the manifest does."""
    return Matrices(
        vision_encoder=str(precision.vision_encoder),
        prefill=str(precision.prefill),
        decode=str(precision.decode),
        embedding=str(precision.embedding),
    )


def first_difference(bundle: Manifest, checkpoint: Manifest) -> str | None:
    """The first fact of the model that two manifests do not share; None where they describe the same one."""
    for part in ("model", "image", "tokens", "cache"):
        theirs = asdict(getattr(checkpoint, part))
        for name, value in asdict(getattr(bundle, part)).items():
            if value != theirs[name]:
                return (
                    f"{part}.{name} is {quote_value(value)}, the checkpoint has {quote_value(theirs[name])}"
                )
    return None


def producer() -> Producer:
    """The versions that decide what the graphs look like."""
    return Producer(version("paligemma-onnx"), version("torch"), version("onnx"))


def image_facts(folder: Path, config: PaliGemmaConfig) -> ImageFacts:
    """Preprocessing from preprocessor_config.json or processor_config.json, checked against config.json.

    Raises:
        CheckpointError: the file is damaged, or asks for a preprocessing that the runtime does not do.
    """
    vision = config.vision_config
    settings = _preprocessor(folder)
    side = {"height": vision.image_size, "width": vision.image_size}
    expected = {
        "size": (side,),
        "resample": (BICUBIC,),
        "do_resize": (True,),
        "do_rescale": (True,),
        "do_normalize": (True,),
        "do_center_crop": (False,),
        "do_pad": (False,),
    }
    for key, accepted in expected.items():
        value = settings.get(key)
        if isinstance(value, dict):  # newer files spell out what is not set
            value = {name: number for name, number in value.items() if number is not None}
        if value is not None and value not in accepted:
            raise CheckpointError(
                f"{folder}: the image processor has {key} {quote_value(value)}, expected {accepted[0]!r}"
            )
    return ImageFacts(
        size=vision.image_size,
        tokens=vision.num_patches,
        rescale_factor=_number(folder, "rescale_factor", _set(settings, "rescale_factor", RESCALE_FACTOR)),
        mean=_triple(folder, "image_mean", _set(settings, "image_mean", MEAN)),
        std=_triple(folder, "image_std", _set(settings, "image_std", STD)),
    )


def _set(settings: Mapping[str, object], key: str, default: object) -> object:
    value = settings.get(key)
    return default if value is None else value


def _preprocessor(folder: Path) -> Mapping[str, object]:
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            settings = read_json(folder / name, MAX_JSON_BYTES)
            nested = settings.get("image_processor", settings)
            if not isinstance(nested, dict):
                raise CheckpointError(
                    f"{folder / name}: image_processor is {quote_value(nested)}, expected an object"
                )
            return nested
    return {}


def _number(folder: Path, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise CheckpointError(
            f"{folder}: the image processor has {key} {quote_value(value)}, expected a number in (0, 1]"
        )
    return float(value)


def _triple(folder: Path, key: str, value: object) -> tuple[float, float, float]:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise CheckpointError(
            f"{folder}: the image processor has {key} {quote_value(value)}, expected three numbers"
        )
    red, green, blue = (_number(folder, key, channel) for channel in value)
    return red, green, blue


def token_facts(folder: Path, config: PaliGemmaConfig) -> TokenFacts:
    """Ids from the checkpoint's tokenizer, asserted against its configuration.

    Raises:
        CheckpointError: no tokenizer.json, a damaged one, or one of another vocabulary.
    """
    path = folder / TOKENIZER
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; download it with the checkpoint")
    try:
        tokenizer = PromptTokenizer.load(path)
    except BundleError as error:
        raise CheckpointError(str(error)) from None
    image, rows = tokenizer.image_id, config.text_config.vocab_size
    if tokenizer.size > rows:
        raise CheckpointError(f"{path}: has {tokenizer.size} tokens, the embedding table only {rows} rows")
    if config.image_token_index != image:
        raise CheckpointError(
            f"{path}: `<image>` is {image}, config.json has image_token_index {config.image_token_index}"
        )
    stop = _stop_ids(folder, tokenizer.eos_id)
    if not all(0 <= token < rows for token in stop):
        raise CheckpointError(
            f"{folder}: generation_config.json has eos_token_id {list(stop)} outside the table"
        )
    untrained = set(range(rows)) - set(tokenizer.library.get_vocab(with_added_tokens=True).values())
    return TokenFacts(
        file=TOKENIZER,
        bos=tokenizer.bos_id,
        pad=tokenizer.pad_id,
        image=image,
        stop=stop,
        suppressed=tuple(sorted({image, *untrained})),
    )


def _stop_ids(folder: Path, eos: int) -> tuple[int, ...]:
    path = folder / "generation_config.json"
    stop = read_json(path, MAX_JSON_BYTES).get("eos_token_id") if path.exists() else None
    if stop is None:
        return (eos,)
    ids = stop if isinstance(stop, list) else [stop]
    if not ids or not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise CheckpointError(f"{path}: eos_token_id is {quote_value(stop)}, expected an id or a list of ids")
    return tuple(ids)
