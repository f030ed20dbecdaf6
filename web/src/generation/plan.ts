/**
 * Check a request and tokenise its prompt before any image is opened and any graph runs.
 *
 * Shapes: docs/notation.md.
 */

import type { Manifest } from '../bundle/schema.js';
import { PromptError } from '../errors.js';
import { dropPrefix } from '../text/prompt_prefix.js';
import { Detokenizer, type PromptTokenizer, encodePrompt } from '../text/tokenizer.js';
import { type AnswerGrammar, grammarForPrompt } from './constraints.js';
import type { DecodeTimings } from './decode_loop.js';
import type { TokenScore } from './logits.js';
import { randomSeed } from './random.js';
import { type ResolvedOptions, resolveOptions } from './resolved_options.js';
import type { FinishReason, Generation, Options } from './types.js';

/** A checked request, and its answer while it is generated. */
export interface PlannedRequest {
  /** Ids, BOS to newline. */
  readonly prompt: readonly number[];
  readonly images: number;
  readonly options: ResolvedOptions;
  readonly seed: bigint;
  readonly detokenizer: Detokenizer;
  /** null: the answer is not restricted. */
  readonly grammar: AnswerGrammar | null;
  readonly tokenIds: number[];
  readonly pieces: string[];
  readonly scores: TokenScore[];
  /** `cancelled` until the decode loop reports another reason. */
  finishReason: FinishReason;
  readonly warnings: string[];
  /** `performance.now()` in milliseconds. */
  startedAt: number;
  visionS: number;
  readonly timings: DecodeTimings;
}

/**
 * Return a request whose options and prompt are checked.
 *
 * @param images Number of images of the request.
 * @throws {OptionError} An option is unknown or outside its range.
 * @throws {PromptError} The prompt cannot be used, or does not fit into the context.
 */
export function planRequest(
  images: number,
  prompt: string,
  options: Options,
  manifest: Manifest,
  tokenizer: PromptTokenizer,
): PlannedRequest {
  const resolved = resolveOptions(options, manifest);
  const context = manifest.model.contextLength;
  const imageTokens = images * manifest.image.tokens;
  const maxPromptTokens = context - imageTokens - 1; // at least one token of the answer
  if (images < 1) throw new PromptError('no image given; give at least one');
  // BOS and newline
  if (maxPromptTokens < 2) {
    throw new PromptError(`${images} images take ${imageTokens} tokens, the context has ${context}; give fewer`);
  }
  const ids = encodePrompt(tokenizer, prompt, maxPromptTokens, images);
  const { stop } = manifest.tokens;
  return {
    prompt: ids,
    images,
    options: resolved,
    seed: BigInt(resolved.sampling.seed ?? randomSeed()),
    detokenizer: new Detokenizer(tokenizer, resolved.specialTokens),
    grammar: resolved.constrained ? grammarForPrompt(dropPrefix(prompt, images), tokenizer, stop) : null,
    tokenIds: [],
    pieces: [],
    scores: [],
    finishReason: 'cancelled',
    warnings: [],
    startedAt: 0,
    visionS: 0,
    timings: { prefillS: 0, firstTokenAt: 0, decodeS: 0, decodedTokens: 0 },
  };
}

/** Return the answer to a request, with the tokens generated so far. */
export function resultOf(
  request: PlannedRequest,
  manifest: Manifest,
  tokenizer: PromptTokenizer,
  device: string,
  loadS: number,
): Generation {
  const { timings, scores, options } = request;
  return {
    text: request.pieces.join(''),
    tokenIds: [...request.tokenIds],
    finishReason: request.finishReason,
    promptTokens: request.prompt.length,
    imageTokens: request.images * manifest.image.tokens,
    seed: request.seed,
    device,
    timings: {
      loadS,
      visionS: request.visionS,
      prefillS: timings.prefillS,
      decodeS: timings.decodeS,
      timeToFirstTokenS: Math.max(0, timings.firstTokenAt - request.startedAt) / 1000,
      tokensPerSecond: timings.decodeS > 0 ? timings.decodedTokens / timings.decodeS : 0,
    },
    warnings: [...request.warnings],
    tokens: request.tokenIds.map((id) => tokenizer.names[id] ?? ''),
    logprobs: options.logprobs ? scores.map((score) => score.logprob) : null,
    locationProbs: options.logprobs ? scores.map((score) => score.locationProb) : null,
  };
}
