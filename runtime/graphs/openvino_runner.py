"""Run the graphs of a bundle with OpenVINO, on the CPU. The cache grows with each step.

Shapes: docs/notation.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.schema import GraphSpec, Manifest
from ..cancellation import Cancellation
from ..engine.device_tensor import DeviceTensor
from ..engine.devices import Placement
from ..errors import BundleError, NumericsError, ProviderError, ResourceError
from ..resource_errors import resource_problem
from .kv_cache import Cache
from .model_runner import Array, Ids, ImageFeatures, concatenate_images
from .onnx_runner import NO_MASK_DECODER

INSTALL = "pip install 'paligemma-onnx[cpu,openvino]'"


class _Request:
    """A run of a graph, which `Cancellation` stops as it stops a run of onnxruntime."""

    def __init__(self, request: Any) -> None:
        self.request = request

    @property
    def terminate(self) -> bool:
        """Always false; setting it to true ends the run."""
        return False

    @terminate.setter
    def terminate(self, value: bool) -> None:
        if value:
            self.request.cancel()


@dataclass(frozen=True)
class OpenVinoRunner:
    """`ModelRunner` that computes with OpenVINO; model_runner.py describes the methods and errors."""

    manifest: Manifest
    placement: Placement
    compiled: Mapping[str, Any]  # openvino.CompiledModel by the name of the graph

    @classmethod
    def open(
        cls,
        folder: Path,
        manifest: Manifest,
        placement: Placement,
        on_opening: Callable[[], object] = lambda: None,
    ) -> OpenVinoRunner:
        """Compile all graphs of a bundle. `on_opening` is called when OpenVINO begins to compile.

        Raises:
            BundleError: the bundle updates its cache in place, or OpenVINO does not compile a graph.
            ProviderError: OpenVINO is not installed.
            ResourceError: out of memory.
        """
        try:
            import openvino  # noqa: PLC0415  optional and slow to import
        except ModuleNotFoundError as error:
            raise ProviderError(f"the engine openvino is not installed: run `{INSTALL}`") from error
        if manifest.cache.update != "grow":
            raise BundleError(
                f"{folder}: precision {manifest.precision.name} updates its cache in place, which OpenVINO "
                "does not do; export with --precision fp32 or int4-portable, or use the engine onnxruntime"
            )
        core = openvino.Core()
        # The default on processors with bfloat16 is to compute in bfloat16.
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": placement.threads}
        compiled = {}
        on_opening()
        for name, graph in manifest.graphs.by_name.items():
            try:
                compiled[name] = core.compile_model(folder / graph.file, "CPU", options)
            except Exception as error:
                raise _translate(error, f"{folder / graph.file}: OpenVINO does not compile it") from error
        return cls(manifest, placement, compiled)

    def encode_image(self, pixel_values: Array, cancel: Cancellation) -> Array:
        """Encode images one at a time: float32[M, 3, S, S] -> float32[M, I, D]."""
        parts = [
            self._run("vision_encoder", {"pixel_values": each[None]}, cancel)[0] for each in pixel_values
        ]
        features: Array = np.concatenate(parts)
        if not np.isfinite(features).all():
            graph = self.manifest.graphs.vision_encoder
            raise NumericsError(
                f"{graph.file}: the image features are NaN or infinite; run `paligemma-onnx verify`"
            )
        return features

    def gather_image_features(self, features: ImageFeatures, images: Ids, cancel: Cancellation) -> Array:
        """Concatenate each row's images: float32[M, I, D], int64[B, N / I] -> float32[B, N, D]."""
        cancel.check()
        return concatenate_images(features, images)

    def prefill(
        self,
        input_ids: Ids,
        image_features: ImageFeatures,
        text_lengths: Ids,
        slots: int,  # noqa: ARG002
        cancel: Cancellation,
    ) -> tuple[Array, Cache]:
        """Read the prompts of a batch; `slots` is not used, because the cache grows with each step."""
        features = np.asarray(image_features)
        inputs = {"input_ids": input_ids, "image_features": features, "text_lengths": text_lengths}
        logits, *values = self._run("prefill", inputs, cancel)
        return logits, Cache(self._to_tensors(values), features.shape[1] + text_lengths)

    def decode(self, input_ids: Ids, cache: Cache, cancel: Cancellation) -> tuple[Array, Cache]:
        """Add tokens to each row: int64[B, T] -> logits float32[B * T, V], and the cache with the tokens."""
        past = {name: tensor.to_numpy_view() for name, tensor in cache.by_name("past_key_values").items()}
        inputs = {"input_ids": input_ids, "past_lengths": cache.lengths, **past}
        logits, *values = self._run("decode", inputs, cancel)
        return logits, cache.advance(self._to_tensors(values), input_ids.shape[1])

    def release(self, cache: Cache, *, reusable: bool) -> None:
        """Do nothing, because Python frees the cache when its last reference is gone."""

    def decode_masks(self, codes: Ids, cancel: Cancellation) -> Array:
        """Decode masks: int64[masks, 16] -> float32[masks, side, side]."""
        if self.manifest.graphs.mask_decoder is None:
            raise BundleError(NO_MASK_DECODER)
        (masks,) = self._run("mask_decoder", {"codes": codes}, cancel)
        return masks

    def _run(self, name: str, inputs: Mapping[str, NDArray[Any]], cancel: Cancellation) -> list[Array]:
        """Run a graph and return its outputs in the order in which the graph declares them."""
        graph: GraphSpec = self.manifest.graphs.by_name[name]
        try:
            # A request per run: several threads may run the same graph.
            run = _Request(self.compiled[name].create_infer_request())
            with cancel.watching(run):
                # The arrays are not copied. The request runs once, so nothing overwrites its outputs.
                outputs = run.request.infer(dict(inputs), share_inputs=True, share_outputs=True)
                return list(outputs.to_tuple())
        except Exception as error:
            cancel.check()
            raise _translate(error, f"{graph.file}: OpenVINO failed to run it") from error

    def _to_tensors(self, values: list[Array]) -> tuple[DeviceTensor, ...]:
        return tuple(DeviceTensor.from_numpy(value, "float32", self.placement, "a cache") for value in values)


def _translate(error: Exception, message: str) -> BundleError | ResourceError:
    if problem := resource_problem(error):
        return ResourceError(f"{message}: {problem}")
    return BundleError(f"{message} ({type(error).__name__}); run `paligemma-onnx verify`")
