"""`ORTPaliGemma`: a bundle with the methods that transformers' pipelines and scripts call.

transformers' own `generate` runs the loop: it chooses the tokens, calls streamers, processors and stopping
criteria. The graphs compute the logits of each step.

Shapes: docs/notation.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from optimum.modeling_base import OptimizedModel
from transformers import GenerationConfig, GenerationMixin, PaliGemmaConfig, PaliGemmaProcessor
from transformers.generation.configuration_utils import GenerationMode
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from paligemma_onnx.runtime import OptionError, PaliGemma
from paligemma_onnx.runtime.resource_errors import translate_resource_errors

from .arguments import refuse_unknown, refuse_unsupported
from .bundle_folder import SUBFOLDER, BundleFolder, HubOptions, copy_bundle, export_bundle, find_bundle
from .configuration import load_config, load_generation_config, make_processor
from .decoding import DecodeState
from .inputs import read_prompt_rows, refuse_training_inputs

_LOADING_ADVICE = {
    "dtype": "the precision is part of the bundle; export with precision=",
    "torch_dtype": "the precision is part of the bundle; export with precision=",
    "quantization_config": "the precision is part of the bundle; export with precision=",
    "device_map": "a model runs on one device; use device=",
    "provider": "use device=",
    "attn_implementation": "the graphs contain the attention",
}

# The pipeline logs an error for a model class that is not in this table of transformers.
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.setdefault("paligemma_onnx", "ORTPaliGemma")


class ORTPaliGemma(GenerationMixin, OptimizedModel):  # type: ignore[misc]  # optimum has no types
    """A bundle as a model of transformers. Several threads may call `generate` at the same time.

    Attributes:
        model: the loaded bundle; `model.device` is the device that the graphs run on.
        config: configuration of the checkpoint.
        generation_config: defaults of `generate`.
        device: device of the tensors that `generate` and `forward` return.
    """

    config_class = PaliGemmaConfig
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    output_modalities = ("text",)
    _supported_generation_modes: ClassVar = [GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE]

    def __init__(self, model: PaliGemma, folder: BundleFolder, config: PaliGemmaConfig | None = None) -> None:
        """Combine a loaded bundle and its folder. To load a bundle, use `from_pretrained`."""
        super().__init__(model, config or load_config(folder, model.manifest))
        self.generation_config: GenerationConfig = load_generation_config(folder.settings, model.manifest)
        self.device = torch.device("cpu")
        self._folder = folder

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | os.PathLike[str],
        *,
        export: bool = False,
        device: str = "auto",
        threads: int | None = None,
        memory_limit: int | None = None,
        config: PaliGemmaConfig | None = None,
        precision: str = "fp32",
        adapters: Sequence[str] = (),
        output: str | os.PathLike[str] | None = None,
        validate: bool = True,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> ORTPaliGemma:
        """Load a bundle, or export a checkpoint and load the bundle.

        Args:
            model_id: the folder of a bundle, a folder that `save_pretrained` wrote, or the id of a repository
                on the Hub with such content. With `export=True`: what `paligemma-onnx export` takes.
            export: export the checkpoint first. Only then may `precision` to `output` be given.
            device: device of the graphs, as in `PaliGemma.load`: `auto`, `cpu`, `cuda` or `cuda:N`.
            threads: as in `PaliGemma.load`.
            memory_limit: as in `PaliGemma.load`.
            config: replaces the configuration that is read from the folder.
            precision: a name of docs/precisions.md.
            adapters: LoRA adapters to merge, each a folder or Hub id, optionally with `:WEIGHT`.
            output: folder to keep the bundle in; None: a temporary folder that is deleted with the model.
            validate: compare the new bundle with the PyTorch model.
            trust_remote_code: has no effect, because no code is loaded.
            options: `revision`, `cache_dir`, `token`, `local_files_only` and `force_download` for
                the Hub. With `export=True`: `revision`, and `base_weights`, `mask_decoder`, `tokenizer`,
                `force` and `strict`, which have the meaning of the command's options.

        Raises:
            OptionError: an argument is unknown, not supported or out of range.
            BundleError: the bundle is missing, damaged or made for another device.
            ProviderError: onnxruntime, a device or the extra `export` is not available.
            CheckpointError, MismatchError: the export fails.
            ResourceError: out of memory or disk space.
        """
        del trust_remote_code
        for name, advice in _LOADING_ADVICE.items():
            if options.pop(name, None) not in (None, "auto", torch.float32):
                raise OptionError(f"{name} is not an argument of from_pretrained: {advice}")
        name = os.fspath(model_id)
        if export:
            revision = options.pop("revision", None)
            folder = export_bundle(
                f"{name}@{revision}" if revision else name,
                output,
                precision=precision,
                adapters=tuple(adapters),
                validate=validate,
                options=options,
            )
        else:
            if unknown := set(options) - set(HubOptions.__annotations__):
                raise OptionError(f"{min(unknown)} is not an argument of from_pretrained without export=True")
            if precision != "fp32" or adapters or output:
                raise OptionError("precision, adapters and output have an effect only with export=True")
            folder = find_bundle(name, cast(HubOptions, options))
        model = PaliGemma.load(folder.path, device=device, threads=threads, memory_limit=memory_limit)
        return cls(model, folder, config)

    @cached_property
    def processor(self) -> PaliGemmaProcessor:
        """A processor with the tokenizer and the image settings of the bundle."""
        return make_processor(self._folder.path, self.model.manifest)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        stopping_criteria: Sequence[Any] | None = None,
        **arguments: Any,
    ) -> Any:
        """Generate answers with transformers' loop, greedy or sampling.

        Args:
            inputs: `input_ids`, if they are not given by name.
            generation_config: as in transformers.
            stopping_criteria: as in transformers. A row also ends when its context is full.
            arguments: the tensors that PaliGemmaProcessor returns, and the arguments of transformers'
                `generate`. docs/optimum.md lists those that are not supported.

        Returns:
            int64[rows, prompt + answer], each row the prompt and its answer, padded on the right; with
            `return_dict_in_generate` a `GenerateDecoderOnlyOutput`.

        Raises:
            OptionError: an argument is not supported.
            PromptError, ImageError: the inputs are malformed or for another bundle.
            NumericsError: the graphs computed NaN or infinity.
            ResourceError: out of memory.
        """
        refuse_unsupported(_merged(self.generation_config, generation_config, arguments))
        state = DecodeState(self.model.runner)
        succeeded = False
        try:
            with translate_resource_errors("this request"):
                output = super().generate(
                    inputs,
                    generation_config,
                    stopping_criteria=[*(stopping_criteria or ()), state.fills_context],
                    state=state,
                    **arguments,
                )
            succeeded = True
        finally:
            state.release(reusable=succeeded)
        return output

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int = 1,
        return_dict: bool = True,
        state: DecodeState | None = None,
        **arguments: Any,
    ) -> CausalLMOutput:
        """Return the logits after each prompt: float32[B, 1, V].

        The graphs compute the logits of each row's last token only. `generate` also passes its `state`.

        Raises:
            OptionError: an argument is not supported.
            PromptError, ImageError: the inputs are malformed, or are a training example.
            NumericsError, ResourceError: as `generate`.
        """
        refuse_unknown(arguments)
        if logits_to_keep != 1 or not return_dict:
            raise OptionError(
                f"logits_to_keep={logits_to_keep}, return_dict={return_dict} is not supported: the graphs "
                "compute the logits of the last token (1), and the result is a CausalLMOutput (True)"
            )
        call = DecodeState(self.model.runner) if state is None else state
        with translate_resource_errors("this request"):
            if call.cache is None:
                refuse_training_inputs(token_type_ids, labels)
                rows = read_prompt_rows(self.model.manifest, input_ids, attention_mask, pixel_values)
                logits = call.prefill(rows)
            else:
                assert input_ids is not None
                logits = call.step(input_ids)
        if state is None:
            call.release(reusable=True)
        return CausalLMOutput(logits=logits[:, None].to(self.device))

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, *, state: DecodeState, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments of the next call of `forward`: all inputs first, then the last token.

        transformers looks for the name `kwargs` to learn that the arguments of `forward` are accepted.
        """
        if state.cache is not None:
            return {"input_ids": input_ids[:, -1:], "state": state}
        names = ("pixel_values", "attention_mask", "token_type_ids")  # generate ignores labels
        return {"input_ids": input_ids, "state": state} | {name: kwargs.get(name) for name in names}

    def _prepare_cache_for_generation(  # type: ignore[override]  # the other arguments are not needed
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any
    ) -> None:
        """Set the length of the KV cache. transformers' `generate` calls this to make a cache."""
        model_kwargs["state"].max_length = generation_config.max_length

    def get_experts_implementation(self) -> dict[str, str]:
        """Return no implementations: the model has no experts. transformers' `generate` asks."""
        return {}

    @classmethod
    def can_generate(cls) -> bool:
        """Return True: the model has `generate`."""
        return True

    @property
    def dtype(self) -> torch.dtype:
        """The type of pixel values and logits, float32 in every precision."""
        return torch.float32

    def to(self, device: str | int | torch.device | torch.dtype) -> ORTPaliGemma:
        """Set the device of the returned tensors, and return the model.

        The graphs stay on the device that `from_pretrained` chose.

        Raises:
            OptionError: the argument is a dtype other than float32.
        """
        if isinstance(device, torch.dtype):
            if device != torch.float32:
                raise OptionError(
                    f"dtype {device}: the precision is part of the bundle; export with precision="
                )
        else:
            self.device = torch.device(device)
        return self

    def eval(self) -> ORTPaliGemma:
        """Return the model; it has no training mode."""
        return self

    def _save_config(self, save_directory: str | os.PathLike[str]) -> None:
        super()._save_config(save_directory)
        self.generation_config.save_pretrained(save_directory)
        self.processor.save_pretrained(save_directory)

    def _save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        copy_bundle(self._folder.path, Path(save_directory, SUBFOLDER))


def _merged(
    defaults: GenerationConfig, given: GenerationConfig | None, arguments: Mapping[str, object]
) -> dict[str, object]:
    """Return the settings of a call by name. Arguments override `given`, which overrides the defaults."""
    settings: dict[str, object] = {}
    for configuration in (defaults, given):
        if configuration is not None:
            settings |= {name: value for name, value in configuration.to_dict().items() if value is not None}
    return settings | dict(arguments)
