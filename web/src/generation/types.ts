/** Options and answers of generation. */

/**
 * `stop` after a stop id, `length` at `maxNewTokens` or at the end of the context, `cancelled` by an AbortSignal.
 */
export type FinishReason = 'stop' | 'length' | 'cancelled';

/**
 * Options of `generate`, `stream`, `detect` and `segment`.
 *
 * A value outside its range throws OptionError. The bundle's manifest can contain other defaults of
 * `maxNewTokens`, `temperature`, `topK`, `topP`, `repetitionPenalty` and `suppressTokens`.
 */
export interface Options {
  /** Maximum number of tokens to generate, 1 to the context length of the model. */
  readonly maxNewTokens?: number;
  /**
   * Divisor of the logits, finite and at least 0. With 0 the most likely token is always taken (greedy decoding).
   * With 1 tokens are sampled with the model's probabilities. Default 0.
   */
  readonly temperature?: number;
  /** Sample from the `topK` most likely tokens. At least 0; 0 keeps all tokens. Default 0. */
  readonly topK?: number;
  /**
   * Sample from the most likely tokens that together have this probability (nucleus sampling). More than 0 and at
   * most 1; 1 keeps all tokens. Applied after `topK`. Default 1.
   */
  readonly topP?: number;
  /**
   * Makes tokens of the prompt and of the answer so far less likely: their positive logits are divided by this
   * number, their negative logits multiplied. Finite and more than 0; 1 changes nothing. Default 1.
   */
  readonly repetitionPenalty?: number;
  /**
   * Ids that are never generated, in addition to the ids that the bundle suppresses. With `constrained`, the form
   * of the answer has priority. Default: none.
   */
  readonly suppressTokens?: readonly number[];
  /**
   * 0 to 2^64 - 1; above 2^53 - 1 as a BigInt. The same seed gives the same sampled answer as in Python. Default: a
   * random seed, which `Generation.seed` reports.
   */
  readonly seed?: bigint | number;
  /**
   * Restrict the answers of `detect` and `segment` prompts to well-formed objects with the labels of the prompt.
   * Default false.
   */
  readonly constrained?: boolean;
  /**
   * Also return the log-probability of each token in `Generation.logprobs`. Default false; `detect` and `segment`
   * always return them.
   */
  readonly logprobs?: boolean;
  /** Include special tokens in the text of the answer, for example those that a fine-tune added. Default false. */
  readonly specialTokens?: boolean;
  /** Cap on width times height, at least 1. Larger images are refused. Default 89,478,485. */
  readonly maxImagePixels?: number;
  /** Stops the request within one token. The answer then has the tokens generated so far. */
  readonly signal?: AbortSignal;
}

/** Durations of the stages in seconds. */
export interface Timings {
  /** Time to load the model. */
  readonly loadS: number;
  /** Time to encode the images. */
  readonly visionS: number;
  /** Time to process image tokens and prompt. */
  readonly prefillS: number;
  /** Time of all decode steps together. */
  readonly decodeS: number;
  /** Time from the start of the request to its first token, without `loadS`. */
  readonly timeToFirstTokenS: number;
  /** Tokens per second of decode steps. 0 if there were no decode steps. */
  readonly tokensPerSecond: number;
}

/** The answer to a request. */
export interface Generation {
  /** The answer, without special tokens unless the option `specialTokens` is set. */
  readonly text: string;
  /** Ids of the answer, without the stop id. */
  readonly tokenIds: readonly number[];
  readonly finishReason: FinishReason;
  /** Number of tokens of BOS, prompt and newline together. */
  readonly promptTokens: number;
  /** Number of tokens of the images. */
  readonly imageTokens: number;
  /** Seed of the request. The same seed repeats a sampled answer. */
  readonly seed: bigint;
  readonly device: string;
  readonly timings: Timings;
  /** Warnings about opening the images, one line per warning. */
  readonly warnings: readonly string[];
  /** Names of `tokenIds` in the vocabulary, special tokens included. */
  readonly tokens: readonly string[];
  /**
   * For each of `tokenIds` the natural logarithm of its probability: the log-softmax of the model's logits, before
   * temperature, penalty, suppression, filters and constraints. null without the option `logprobs`.
   */
  readonly logprobs: readonly number[] | null;
  /**
   * For each of `tokenIds` that is a location token (`<loc0123>`) the probability of all locations within
   * 20 / 1,024 of the image's side, from the same softmax; null for other tokens. null without the option
   * `logprobs`.
   */
  readonly locationProbs: readonly (number | null)[] | null;
}
