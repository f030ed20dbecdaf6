/**
 * Repetition penalty, and probabilities of the generated tokens.
 *
 * Shapes: docs/notation.md.
 */

import { checkPeak } from './sampling.js';

/** Locations; an image has 1,024 of them from edge to edge, so this is 2 % of its side. */
const NEAR = 20;

/** The model's probability of a generated token, without any option of sampling. */
export interface TokenScore {
  /** Natural logarithm of the token's probability. */
  readonly logprob: number;
  /** For a location token the probability of all location tokens at most NEAR locations away; else null. */
  readonly locationProb: number | null;
}

/**
 * Return a copy of the logits, float32[V], in which the tokens `seen` are less likely (penalty > 1).
 *
 * Positive logits are divided by the penalty, negative logits multiplied by it. A token counts once however often
 * it was seen.
 *
 * @param logits float32[V], not modified.
 * @param seen Ids of the prompt and of the answer so far.
 * @param penalty A finite number above 0.
 */
export function penalize(logits: Float32Array, seen: Iterable<number>, penalty: number): Float32Array {
  const penalized = logits.slice();
  const factor = Math.fround(penalty);
  for (const id of seen) penalized[id] = logits[id]! < 0 ? logits[id]! * factor : logits[id]! / factor;
  return penalized;
}

/** Return for each location token the ids of the location tokens at most NEAR locations away. */
export function nearLocations(locationIds: readonly number[]): ReadonlyMap<number, readonly number[]> {
  return new Map(
    locationIds.map((id, place) => [id, locationIds.slice(Math.max(0, place - NEAR), place + NEAR + 1)]),
  );
}

/**
 * Return the score of a token. All sums are float64.
 *
 * @param logits float32[V], as the graphs computed them.
 * @param near The result of `nearLocations`.
 * @throws {NumericsError} A logit is NaN or +inf, or none is finite.
 */
export function scoreToken(
  logits: Float32Array,
  id: number,
  near: ReadonlyMap<number, readonly number[]>,
): TokenScore {
  let peak = -Infinity;
  for (const logit of logits) peak = Math.max(peak, logit); // NaN if any logit is NaN
  checkPeak(peak);
  let total = 0;
  for (const logit of logits) total += Math.exp(logit - peak);
  const ids = near.get(id);
  return {
    logprob: logits[id]! - peak - Math.log(total),
    locationProb:
      ids === undefined ? null : ids.reduce((sum, other) => sum + Math.exp(logits[other]! - peak), 0) / total,
  };
}
