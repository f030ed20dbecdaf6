/** Tokenise prompts and detokenise answers, for tests/web/test_driver_text.py. */

import { readFileSync } from 'node:fs';

import { Detokenizer, encodePrompt, loadTokenizer } from '../../src/text/tokenizer.js';
import { answerJob } from './job.js';
import { valueOrMessage } from './value_or_message.js';

interface Job {
  tokenizer: string;
  prompts: { prompt: string; maxTokens: number; images: number }[];
  /** Answers, each a list of ids. */
  answers: number[][];
}

await answerJob<Job>(async ({ tokenizer: file, prompts, answers }) => {
  const tokenizer = loadTokenizer(readFileSync(file, 'utf8'), 'tokenizer.json');
  const pieces = answers.map((ids) =>
    [false, true].map((specialTokens) => {
      const detokenizer = new Detokenizer(tokenizer, specialTokens);
      return [...ids.map((id) => detokenizer.push(id)), detokenizer.finish()];
    }),
  );
  const { size, maxTokenBytes, locationIds } = tokenizer;
  return {
    encoded: await Promise.all(
      prompts.map(({ prompt, maxTokens, images }) =>
        valueOrMessage(() => encodePrompt(tokenizer, prompt, maxTokens, images)),
      ),
    ),
    pieces,
    facts: { size, maxTokenBytes, locationIds },
  };
});
