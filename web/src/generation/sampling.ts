/**
 * Selection of a token id from the logits of a step: greedy, or sampled with temperature, top-k and top-p.
 *
 * As in the Python driver, the same logits and the same seed give the same id.
 *
 * Shapes: docs/notation.md.
 */

import { NumericsError, OptionError } from '../errors.js';
import { NUM_SEEDS, type RandomGenerator } from './random.js';
import { largest, nucleus, weigh } from './selection.js';

/** Options for choosing the next token. */
export interface SamplingOptions {
  /** Divisor of the logits, finite and at least 0. With 0 the most likely token is always taken. */
  readonly temperature: number;
  /** Number of most likely tokens that are kept, at least 0. 0 keeps all tokens. */
  readonly topK: number;
  /**
   * Among the tokens that `topK` keeps, the most likely tokens with this total probability are kept (nucleus
   * sampling, arXiv 1904.09751, section 3.1). More than 0 and at most 1.
   */
  readonly topP: number;
  /** 0 to 2^64 - 1; above 2^53 - 1 as a BigInt. undefined: each call draws a random seed. */
  readonly seed?: bigint | number | undefined;
  /** Finite and more than 0; see `penalize`. */
  readonly repetitionPenalty: number;
  /** Ids that are never chosen. */
  readonly suppressTokens: readonly number[];
}

/**
 * Check the ranges.
 *
 * @throws {OptionError} A value is outside its range; the message names the option and the range.
 */
export function checkSampling(options: SamplingOptions): void {
  const { temperature, topK, topP, seed, repetitionPenalty, suppressTokens } = options;
  if (!(Number.isFinite(temperature) && temperature >= 0)) {
    throw new OptionError(`temperature must be a finite number >= 0, not ${String(temperature)}`);
  }
  if (!(Number.isInteger(topK) && topK >= 0)) {
    throw new OptionError(`topK must be a whole number >= 0 (0 keeps all), not ${String(topK)}`);
  }
  if (!(Number.isFinite(topP) && topP > 0 && topP <= 1)) {
    throw new OptionError(`topP must be a number > 0 and <= 1, not ${String(topP)}`);
  }
  if (!(Number.isFinite(repetitionPenalty) && repetitionPenalty > 0)) {
    throw new OptionError(`repetitionPenalty must be a finite number > 0, not ${String(repetitionPenalty)}`);
  }
  if (!(Array.isArray(suppressTokens) && suppressTokens.every(Number.isInteger))) {
    throw new OptionError('suppressTokens must be an array of token ids, such as [108, 235]');
  }
  const isWhole = typeof seed === 'bigint' || Number.isSafeInteger(seed);
  if (seed !== undefined && !(isWhole && seed >= 0 && seed < NUM_SEEDS)) {
    throw new OptionError(
      `seed must be a whole number from 0 to 2**64 - 1, as a BigInt if it is above 2**53 - 1, not ${String(seed)}`,
    );
  }
}

/**
 * Return the id of the chosen token.
 *
 * Greedy decoding takes the lowest id among equal logits and does not draw a number. Sampling draws exactly one.
 *
 * @param logits float32[V], not modified.
 * @param suppressed Ids that are never chosen.
 * @throws {NumericsError} A logit is NaN or +inf, or none is finite.
 */
export function sample(
  logits: Float32Array,
  options: SamplingOptions,
  rng: RandomGenerator,
  suppressed: readonly number[] = [],
): number {
  if (options.temperature === 0) return mostLikely(logits, suppressed);
  const { ids, weights } = candidates(logits, options, suppressed);
  let total = 0;
  const cumulative = weights.map((weight) => (total += weight));
  // The position is in range: u <= 1 - 2^-53 keeps u * total below the total, which is at least the peak's 1.
  const position = firstAbove(cumulative, rng.random() * total);
  return ids === null ? position : ids[position]!;
}

/**
 * Return the ids that pass the filters and their unnormalised probabilities.
 *
 * Temperature (> 0) is applied first, then top-k, then top-p on the remaining ids. Among equal logits at the
 * boundary of top-k or top-p, the lowest ids are kept.
 *
 * @param logits float32[V], not modified.
 * @param options Options with a temperature above 0.
 * @param suppressed Ids that are never chosen. A suppressed id that passes the filters has the weight 0.
 * @returns Ids in ascending order, or null for all V ids; and float64 weights.
 * @throws {NumericsError} A logit is NaN or +inf, or none is finite.
 */
export function candidates(
  logits: Float32Array,
  options: SamplingOptions,
  suppressed: readonly number[] = [],
): { ids: Int32Array | null; weights: Float64Array } {
  const { temperature, topK, topP } = options;
  const peak = logits[mostLikely(logits, suppressed)]!;
  const allowed = suppressed.length > 0 ? without(logits, suppressed) : logits;
  const ids = topK > 0 && topK < allowed.length ? largest(allowed, topK) : null;
  const kept = ids === null ? allowed : Float32Array.from(ids, (id) => allowed[id]!);
  const weights = weigh(kept, peak, temperature);
  if (topP === 1) return { ids, weights };
  const positions = nucleus(kept, weights, topP, peak, temperature);
  return {
    ids: ids === null ? positions : positions.map((position) => ids[position]!),
    weights: Float64Array.from(positions, (position) => weights[position]!),
  };
}

/**
 * Check the largest logit of a step.
 *
 * @throws {NumericsError} It is not a finite number.
 */
export function checkPeak(peak: number): void {
  if (Number.isFinite(peak)) return;
  const problem = Number.isNaN(peak) ? 'NaN logits' : peak > 0 ? 'an infinite logit' : 'no finite logit';
  throw new NumericsError(
    `the graphs computed ${problem}: numbers overflowed; use precision fp32 or bf16 instead`,
  );
}

/** Return the id of the largest logit that is not suppressed: the lowest id among equal logits. */
function mostLikely(logits: Float32Array, suppressed: readonly number[]): number {
  const best = argmax(logits);
  checkPeak(logits[best]!);
  if (!suppressed.includes(best)) return best;
  const allowed = without(logits, suppressed);
  const other = argmax(allowed);
  checkPeak(allowed[other]!);
  return other;
}

/** Return the position of the first NaN or, if there is none, of the first largest value. */
function argmax(values: Float32Array): number {
  let best = 0;
  for (let index = 0; index < values.length; index++) {
    if (values[index]! > values[best]!) best = index;
    else if (Number.isNaN(values[index])) return index;
  }
  return best;
}

/** Return a copy of the logits, float32[V], with -inf at the suppressed ids. */
function without(logits: Float32Array, suppressed: readonly number[]): Float32Array {
  const masked = logits.slice();
  for (const id of suppressed) masked[id] = -Infinity;
  return masked;
}

/** Return the first position whose value is larger than `value`, in an array in ascending order. */
function firstAbove(ascending: Float64Array, value: number): number {
  let first = 0;
  let end = ascending.length;
  while (first < end) {
    const middle = (first + end) >> 1;
    if (ascending[middle]! > value) end = middle;
    else first = middle + 1;
  }
  return first;
}
