/**
 * The generation loop: one prefill, then one decode step per token.
 *
 * Shapes: docs/notation.md.
 */

import { NumericsError } from '../errors.js';
import type { ModelRunner } from '../graphs/model_runner.js';
import { type AnswerGrammar, type GrammarState, advance, allowedIds, initialState } from './constraints.js';
import { type TokenScore, penalize, scoreToken } from './logits.js';
import type { RandomGenerator } from './random.js';
import { type SamplingOptions, sample } from './sampling.js';
import type { FinishReason } from './types.js';

/** The answer received an id, ended, or both. */
export interface TokenEvent {
  /** null: a stop id ended the answer. */
  readonly tokenId: number | null;
  /** null: the answer continues. */
  readonly finishReason: FinishReason | null;
  /** null: no scores are requested. */
  readonly score: TokenScore | null;
}

/** Seconds and tokens so far, updated while an answer is decoded. */
export interface DecodeTimings {
  prefillS: number;
  /** `performance.now()` in milliseconds; 0: before the first token. */
  firstTokenAt: number;
  decodeS: number;
  /** Tokens of decode steps: the first token is not counted. */
  decodedTokens: number;
}

/** What `decodeTokens` decodes, and how. */
export interface DecodeRequest {
  /** float32[N, D] */
  readonly imageFeatures: Float32Array;
  /** Ids, BOS to newline. */
  readonly prompt: readonly number[];
  /** Maximum number of ids, at least 1. */
  readonly maxNewTokens: number;
  readonly sampling: SamplingOptions;
  readonly rng: RandomGenerator;
  /** null: the answer is not restricted. */
  readonly grammar: AnswerGrammar | null;
  /** Result of `nearLocations`; null: no scores are requested. */
  readonly near: ReadonlyMap<number, readonly number[]> | null;
  readonly signal: AbortSignal | undefined;
  /** Receives the time spent. */
  readonly timings: DecodeTimings;
}

/**
 * Generate the answer to a prompt; yield its ids in order, without the stop id.
 *
 * The last event has the finish reason. An aborted signal ends the answer at the latest after the graph that runs.
 *
 * @throws {NumericsError} The logits are NaN or infinite.
 */
export async function* decodeTokens(runner: ModelRunner, request: DecodeRequest): AsyncGenerator<TokenEvent> {
  const { prompt, maxNewTokens, grammar, near, signal, timings } = request;
  const { tokens, model, precision } = runner.manifest;
  const width = model.hiddenSize;
  const positions = request.imageFeatures.length / width + prompt.length;
  const slots = Math.min(positions + maxNewTokens, model.contextLength);
  if (signal?.aborted) return yield { tokenId: null, finishReason: 'cancelled', score: null };
  let started = performance.now();
  let { logits, cache } = await runner.prefill(prompt, request.imageFeatures, slots);
  timings.prefillS = (performance.now() - started) / 1000;

  const suppressed = [...new Set([...tokens.suppressed, ...request.sampling.suppressTokens])];
  const seen = new Set(prompt);
  let state: GrammarState = initialState;
  try {
    for (let count = 0; ; count++) {
      await nextTask();
      if (signal?.aborted) return yield { tokenId: null, finishReason: 'cancelled', score: null };
      const slotsLeft = model.contextLength - cache.length;
      const tokensLeft = Math.min(maxNewTokens - count, slotsLeft);
      const allowed = grammar === null ? null : allowedIds(grammar, state, tokensLeft);
      const tokenId = chooseToken(logits, request, suppressed, allowed, seen);
      const score = near === null ? null : scoreToken(logits, tokenId, near);
      timings.firstTokenAt ||= performance.now();
      if (tokens.stop.includes(tokenId)) return yield { tokenId: null, finishReason: 'stop', score: null };
      if (grammar !== null) state = advance(grammar, state, tokenId);
      seen.add(tokenId);
      const isLast = count + 1 === maxNewTokens || slotsLeft <= 1;
      yield { tokenId, finishReason: isLast ? 'length' : null, score };
      if (isLast) return;
      started = performance.now();
      ({ logits, cache } = await runner.decode(tokenId, cache));
      timings.decodeS += (performance.now() - started) / 1000;
      timings.decodedTokens++;
    }
  } catch (error) {
    throw precision.name === 'fp32' && error instanceof NumericsError ? adviceForFp32(error) : error;
  } finally {
    runner.release(cache);
  }
}

/**
 * Return the id of the chosen token. As in transformers, penalty and suppression come first.
 *
 * If `allowed` is given, choose one of these ids. Suppressed ids are excluded, unless all allowed ids are
 * suppressed.
 */
function chooseToken(
  logits: Float32Array,
  { sampling, rng }: DecodeRequest,
  suppressed: readonly number[],
  allowed: readonly number[] | null,
  seen: ReadonlySet<number>,
): number {
  const { repetitionPenalty } = sampling;
  const penalized = repetitionPenalty === 1 ? logits : penalize(logits, seen, repetitionPenalty);
  if (allowed === null) return sample(penalized, sampling, rng, suppressed);
  const unsuppressed = allowed.filter((id) => !suppressed.includes(id));
  const ids = unsuppressed.length > 0 ? unsuppressed : allowed;
  return ids[sample(Float32Array.from(ids, (id) => penalized[id]!), sampling, rng)]!;
}

/**
 * Wait for the next task of the event loop, so that a page can draw and handle a click between two tokens.
 *
 * onnxruntime-web resolves its promises in microtasks, which come before both.
 */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

function adviceForFp32(error: NumericsError): NumericsError {
  return new NumericsError(
    `${error.message}; this bundle is fp32: \`paligemma-onnx export --strict\` checks whether its checkpoint contains ` +
      'NaN or infinity',
  );
}
