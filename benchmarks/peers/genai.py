"""Time onnxruntime-genai with a model of its model builder. Runs in the environment of onnxruntime-genai."""

from __future__ import annotations

import json

import onnxruntime_genai as genai

from .decoder import Decoder, prompt_ids


class Genai(Decoder):
    """The decoder in a folder that the model builder wrote."""

    def __init__(self, model: str, threads: int, steps: int, capacity: int) -> None:
        super().__init__(steps)
        config = genai.Config(model)
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = genai.Model(config)
        self._capacity = capacity
        self.clear_cache()

    def clear_cache(self) -> None:
        """Create a new generator, which has an empty cache."""
        options = genai.GeneratorParams(self._model)
        # With random weights the most likely token may be EOS. The minimum length equals the maximum length,
        # so that EOS does not end the answer.
        options.set_search_options(max_length=self._capacity, min_length=self._capacity, do_sample=False)
        self._generator = genai.Generator(self._model, options)

    def prefill(self, tokens: int) -> None:
        """Read the given number of tokens."""
        self._generator.append_tokens(prompt_ids(tokens))

    def step(self) -> None:
        """Read the token that was chosen last, and choose the next token; the first call only chooses."""
        self._generator.generate_next_token()
