"""onnxruntime-genai on what its model builder made. Runs in that package's environment."""

from __future__ import annotations

import json

import onnxruntime_genai as genai

from .decoder import Decoder, prompt_ids


class Genai(Decoder):
    """A folder of the model builder."""

    def __init__(self, model: str, threads: int, steps: int, slots: int) -> None:
        super().__init__(steps)
        config = genai.Config(model)
        session = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = genai.Model(config)
        self._slots = slots
        self.forget()

    def forget(self) -> None:
        """A new generator has an empty cache."""
        options = genai.GeneratorParams(self._model)
        # No answer is shorter than the longest: random weights may well choose EOS, which would end it.
        options.set_search_options(max_length=self._slots, min_length=self._slots, do_sample=False)
        self._generator = genai.Generator(self._model, options)

    def prefill(self, tokens: int) -> None:
        """Read T tokens."""
        self._generator.append_tokens(prompt_ids(tokens))

    def step(self) -> None:
        """Read the token that was chosen last and choose the next; the first call only chooses."""
        self._generator.generate_next_token()
