"""onnxruntime-genai on a model that its model builder made. Runs in that package's environment."""

from __future__ import annotations

import json

import onnxruntime_genai as genai

from .decoder import Decoder, prompt_ids


class Genai(Decoder):
    """A folder of the model builder."""

    def __init__(self, model: str, threads: int, steps: int, capacity: int) -> None:
        super().__init__(steps)
        config = genai.Config(model)
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = genai.Model(config)
        self._capacity = capacity
        self.clear_cache()

    def clear_cache(self) -> None:
        """Make a new generator, whose cache is empty."""
        options = genai.GeneratorParams(self._model)
        # The minimum length is the maximum: with random weights EOS may be chosen, which would end the
        # answer.
        options.set_search_options(max_length=self._capacity, min_length=self._capacity, do_sample=False)
        self._generator = genai.Generator(self._model, options)

    def prefill(self, tokens: int) -> None:
        """Read that many tokens."""
        self._generator.append_tokens(prompt_ids(tokens))

    def step(self) -> None:
        """Read the token chosen last and choose the next; the first call only chooses."""
        self._generator.generate_next_token()
