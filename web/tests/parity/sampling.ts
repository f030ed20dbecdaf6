/** Sample ids and draw random numbers, for tests/web/test_driver_sampling.py. */

import { readFileSync } from 'node:fs';

import { penalize, scoreToken, nearLocations } from '../../src/generation/logits.js';
import { rngFor } from '../../src/generation/random.js';
import { checkSampling, sample, type SamplingOptions } from '../../src/generation/sampling.js';
import { answerJob } from './job.js';
import { valueOrMessage } from './value_or_message.js';

interface Job {
  /** File of float32[steps, V]. */
  logits: string;
  vocabSize: number;
  /** Seeds as decimal texts. */
  draws: { seed: string; row: number; count: number }[];
  runs: {
    seed: string;
    options: SamplingOptions;
    suppressed: number[];
    /** Ids that were seen before the first step. */
    seen: number[];
  }[];
  /** Logits that sampling refuses; NaN and infinities as texts. */
  refused: string[][];
  locationIds: number[];
  /** Id of each step whose score is returned. */
  scored: number[];
}

await answerJob<Job>(async (job) => {
  const bytes = readFileSync(job.logits);
  const all = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
  const steps = Array.from({ length: all.length / job.vocabSize }, (_, step) =>
    all.subarray(step * job.vocabSize, (step + 1) * job.vocabSize),
  );
  const near = nearLocations(job.locationIds);
  const greedy = { temperature: 0, topK: 0, topP: 1, repetitionPenalty: 1, suppressTokens: [] };
  return {
    draws: job.draws.map(({ seed, row, count }) => {
      const rng = rngFor(BigInt(seed), row);
      return Array.from({ length: count }, () => rng.random());
    }),
    ids: job.runs.map(({ seed, options, suppressed, seen }) => {
      checkSampling(options);
      const rng = rngFor(BigInt(seed), 0);
      const ids = [...seen];
      for (const logits of steps) {
        ids.push(sample(penalize(logits, ids, options.repetitionPenalty), options, rng, suppressed));
      }
      return ids.slice(seen.length);
    }),
    refused: await Promise.all(
      job.refused.map((texts) =>
        valueOrMessage(() => sample(Float32Array.from(texts, Number), greedy, rngFor(0n, 0))),
      ),
    ),
    scores: job.scored.map((id, step) => scoreToken(steps[step]!, id, near)),
  };
});
