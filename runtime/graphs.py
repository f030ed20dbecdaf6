"""The graphs as calls; the cache is bound, never copied into Python.

Legend: B batch, M masks, S image side in pixels, I tokens an image, N image tokens of a row, T prompt
tokens of the longest row, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache import Cache
from .cancellation import Cancellation
from .errors import BundleError, PaliGemmaError, ResourceError
from .heap import trim
from .manifest import GraphSpec, Manifest, TensorSpec
from .runner import Array, Ids
from .session import Placement, import_onnxruntime, open_session
from .shortage import shortage

# Slots that a cache in place has to spare behind a prompt, and gets more of when they are used up. Attention
# reads every slot there is, so there are not all that a request allows.
SPARE_SLOTS = 128

NO_MASK_DECODER = "the bundle has no mask decoder; export the checkpoint with --mask-decoder"


def different_graphs(manifest: Manifest) -> tuple[GraphSpec, ...]:
    """A bundle's graphs, each once: prefill and decode may be the same."""
    return tuple({graph.digest: graph for graph in reversed(manifest.graphs.every)}.values())[::-1]


@dataclass(frozen=True)
class GraphRunner:
    """Open sessions of one bundle."""

    folder: Path
    prepared: Path | None  # where graphs are opened instead
    manifest: Manifest
    placement: Placement
    vision: Any | None  # None: opened for the pictures of a request and let go behind them
    prefill_session: Any
    decode_session: Any
    mask_session: Any | None  # None: the bundle has no mask decoder

    @classmethod
    def open(
        cls,
        folder: Path,
        manifest: Manifest,
        placement: Placement,
        *,
        keep_vision: bool = True,
        prepared: Path | None = None,
    ) -> GraphRunner:
        """Open the sessions; raises what `open_session` raises.

        Where prefill and decode are the same graph one session serves both, and holds its weights once.
        """
        graphs = manifest.graphs
        every = different_graphs(manifest)
        different = [graph for graph in every if keep_vision or graph != graphs.vision_encoder]
        # Each takes its time with one thread: to bring weights into the order that its kernels read.
        with ThreadPoolExecutor(len(different)) as threads:
            opened = {
                graph.digest: threads.submit(
                    open_session, folder, graph, manifest, placement, prepared=prepared
                )
                for graph in different
            }
        sessions = {digest: session.result() for digest, session in opened.items()}
        trim()
        return cls(
            folder,
            prepared,
            manifest,
            placement,
            vision=sessions.get(graphs.vision_encoder.digest),
            prefill_session=sessions[graphs.prefill.digest],
            decode_session=sessions[graphs.decode.digest],
            mask_session=None if graphs.mask_decoder is None else sessions[graphs.mask_decoder.digest],
        )

    def encode_image(self, pixel_values: Array, cancel: Cancellation) -> Array:
        """Look at pictures, one after the other: float32[B, 3, S, S] -> float32[B, I, D].

        More at once would cost memory and, on a CPU, gain no time.
        """
        graph = self.manifest.graphs.vision_encoder
        session = self.vision or self._opened(graph)
        seen = [
            self._run(session, graph, {"pixel_values": pixels}, {}, cancel, give_back=True)[0].numpy()
            for pixels in pixel_values[:, None]
        ]
        if self.vision is None:
            del session
            trim()
        return np.concatenate(seen)

    def prefill(
        self, input_ids: Ids, image_features: Array, text_lengths: Ids, slots: int, cancel: Cancellation
    ) -> tuple[Array, Cache]:
        """Read the prompts of a batch.

        Args:
            input_ids: int64[B, T], padded on the right.
            image_features: float32[B, N, D].
            text_lengths: int64[B], real tokens of each row.
            slots: the most that any row may use, N + T or more; a cache in place has no more, and at first
                no more than it soon needs.
            cancel: stops the run from another thread.

        Returns:
            logits float32[B, V] behind each row's last token, and the cache.
        """
        fed: dict[str, NDArray[Any]] = {
            "input_ids": input_ids,
            "image_features": image_features,
            "text_lengths": text_lengths,
        }
        graph, lengths = self.manifest.graphs.prefill, image_features.shape[1] + text_lengths
        if self._in_place:
            taken = image_features.shape[1] + input_ids.shape[1]
            room = self._room(len(input_ids), min(slots, taken + SPARE_SLOTS))
            empty = Cache(room, np.zeros_like(text_lengths))
            logits, values = self._write(self.prefill_session, graph, fed, empty, cancel, give_back=True)
        else:
            logits, *new = self._run(self.prefill_session, graph, fed, {}, cancel, give_back=True)
            values = tuple(new)
        return logits.numpy(), Cache(values, lengths)

    def decode(self, input_ids: Ids, cache: Cache, cancel: Cancellation) -> tuple[Array, Cache]:
        """Add one token to each row: int64[B, 1] -> logits float32[B, V] and the cache with it.

        A cache that is updated in place is the same memory before and after, until a row has used its last
        slot; then it moves to a larger one. The one handed in still holds
        what it held, since each step writes its slot before it reads it: one may go back and decode again
        from there, but not go on from both.
        """
        graph, rows = self.manifest.graphs.decode, len(input_ids)
        fed: dict[str, NDArray[Any]] = {"input_ids": input_ids}
        if self._in_place:
            fed["image_features"] = np.zeros((rows, 0, self.manifest.model.hidden_size), dtype=np.float32)
            fed["text_lengths"] = np.ones(rows, dtype=np.int64)
            cache = self._with_room(cache)
            wide = self.manifest.recipe.wide_batch
            session = self.decode_session
            if wide is not None and rows >= wide:
                session, graph = self.prefill_session, self.manifest.graphs.prefill
            logits, values = self._write(session, graph, fed, cache, cancel)
        else:
            fed["past_lengths"] = cache.lengths
            bound = _by_name(graph.inputs[len(fed) :], cache)
            logits, *new = self._run(self.decode_session, graph, fed, bound, cancel)
            values = tuple(new)
        return logits.numpy(), cache.grown(values)

    def decode_masks(self, codes: Ids, cancel: Cancellation) -> Array:
        """Turn `<seg>` codes into maps: int64[M, 16] -> float32[M, 64, 64], positive inside a mask.

        Raises:
            BundleError: there is no mask decoder in the bundle.
        """
        graph = self.manifest.graphs.mask_decoder
        if graph is None:
            raise BundleError(NO_MASK_DECODER)
        masks: Array = self._run(self.mask_session, graph, {"codes": codes}, {}, cancel)[0].numpy()
        return masks

    def _opened(self, graph: GraphSpec) -> Any:
        """A session for now; prepared graphs may have been removed since the others were opened."""
        prepared = self.prepared if self.prepared is not None and self.prepared.exists() else None
        return open_session(self.folder, graph, self.manifest, self.placement, prepared=prepared)

    def _room(self, rows: int, slots: int, held: Sequence[Any] = ()) -> tuple[Any, ...]:
        """Memory for a cache, float32[B, K, C, H] for each key and value; raises ResourceError.

        It begins with the slots of the values `held`, of a smaller cache; the rest are zeros: a free slot has
        no weight in what is read, but nothing times NaN would be NaN. The system gives the pages when they
        are written.
        """
        facts, make = self.manifest.cache, import_onnxruntime().OrtValue.ortvalue_from_numpy
        shape = (rows, facts.heads, slots, facts.head_dim)

        def value(index: int) -> Any:
            content = np.zeros(shape, dtype=np.float32)
            if held:
                before = held[index].numpy()
                content[:, :, : before.shape[2]] = before
            return make(content, self.placement.device)

        try:
            return tuple(value(index) for index in range(2 * facts.layers))
        except Exception as error:  # the engine has no common base for what it raises
            if words := shortage(error):
                raise ResourceError(f"a cache of {slots} slots for {rows} rows: {words}") from error
            raise

    def _with_room(self, cache: Cache) -> Cache:
        """A cache in which every row has a free slot: the one given, or a larger copy."""
        rows, _, slots, _ = cache.values[0].shape()
        if cache.lengths.max() < slots:
            return cache
        return Cache(self._room(rows, slots + SPARE_SLOTS, cache.values), cache.lengths)

    def _write(
        self,
        session: Any,
        graph: GraphSpec,
        fed: Mapping[str, NDArray[Any]],
        cache: Cache,
        cancel: Cancellation,
        *,
        give_back: bool = False,
    ) -> tuple[Any, tuple[Any, ...]]:
        """Run a graph that writes into the cache it reads: logits, and the cache's values."""
        fed = {**fed, "past_lengths": cache.lengths}
        bound, written = _by_name(graph.inputs[len(fed) :], cache), _by_name(graph.outputs[1:], cache)
        logits, *_ = self._run(session, graph, fed, bound, cancel, written=written, give_back=give_back)
        # Not the handles that the engine gives back: these keep its session, weights and all, in memory.
        return logits, cache.values

    @property
    def _in_place(self) -> bool:
        return self.manifest.cache.update == "in_place"

    def _run(
        self,
        session: Any,
        graph: GraphSpec,
        fed: Mapping[str, NDArray[Any]],
        bound: Mapping[str, Any],
        cancel: Cancellation,
        *,
        written: Mapping[str, Any] = MappingProxyType({}),
        give_back: bool = False,
    ) -> tuple[Any, ...]:
        """Run a graph on arrays and bound values; the first output comes to the CPU, the cache stays.

        Outputs go into the values of `written` where it names them, else into new ones.
        With `give_back` the memory of the run's inner values returns to the system: attention over the 4096
        patches of an 896-pixel image takes gigabytes that decoding never needs again.
        """
        binding = session.io_binding()
        # Held by a name until the run ends: the binding reads their memory.
        arrays = {name: np.ascontiguousarray(array) for name, array in fed.items()}
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        for name, value in bound.items():
            binding.bind_ortvalue_input(name, value)
        first, *rest = graph.outputs
        binding.bind_output(first.name, "cpu")
        for spec in rest:
            if spec.name in written:
                binding.bind_ortvalue_output(spec.name, written[spec.name])
            else:
                binding.bind_output(spec.name, self.placement.device)
        try:
            with cancel.watching(self._run_options(give_back=give_back)) as options:
                session.run_with_iobinding(binding, options)
        except PaliGemmaError:
            raise
        except Exception as error:  # the engine has no common base for what it raises
            cancel.check()
            if words := shortage(error):
                raise ResourceError(f"{graph.file}: {words}") from error
            raise BundleError(
                f"{graph.file}: the engine failed in it ({type(error).__name__}); run `paligemma-onnx verify`"
            ) from error
        return tuple(binding.get_outputs())

    def _run_options(self, *, give_back: bool) -> Any:
        options = import_onnxruntime().RunOptions()
        if give_back:
            arena = "cpu:0" if self.placement.device == "cpu" else "cpu:0;gpu:0"
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
        return options


def _by_name(specs: Sequence[TensorSpec], cache: Cache) -> dict[str, Any]:
    return {spec.name: value for spec, value in zip(specs, cache.values, strict=True)}
