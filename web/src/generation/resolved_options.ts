/** Check the options of a call, and add the defaults of the bundle. */

import type { Manifest } from '../bundle/schema.js';
import { OptionError } from '../errors.js';
import { type SamplingOptions, checkSampling } from './sampling.js';
import type { Options } from './types.js';

/** All options of a call that the decoding uses; `Options` describes them. */
export interface ResolvedOptions {
  readonly sampling: SamplingOptions;
  readonly maxNewTokens: number;
  readonly constrained: boolean;
  readonly logprobs: boolean;
  readonly specialTokens: boolean;
  readonly signal: AbortSignal | undefined;
}

const KNOWN: Record<keyof Options, true> = {
  maxNewTokens: true,
  temperature: true,
  topK: true,
  topP: true,
  repetitionPenalty: true,
  suppressTokens: true,
  seed: true,
  constrained: true,
  logprobs: true,
  specialTokens: true,
  maxImagePixels: true,
  signal: true,
};

/**
 * Return the checked options of a call.
 *
 * @throws {OptionError} An option is unknown or outside its range.
 */
export function resolveOptions(given: Options, { generation, model }: Manifest): ResolvedOptions {
  const unknown = Object.keys(given).find((name) => !(name in KNOWN));
  if (unknown !== undefined) {
    throw new OptionError(`unknown option ${unknown}; known: ${Object.keys(KNOWN).join(', ')}`);
  }
  const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const options = { ...generation, ...(defined as Options) };
  const { maxNewTokens, constrained = false, logprobs = false, specialTokens = false, signal } = options;
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 1 || maxNewTokens > model.contextLength) {
    throw new OptionError(
      `maxNewTokens is ${String(maxNewTokens)}, expected 1 to ${model.contextLength}, the context length`,
    );
  }
  for (const [name, flag] of Object.entries({ constrained, logprobs, specialTokens })) {
    if (typeof flag !== 'boolean') throw new OptionError(`${name} is ${String(flag)}, expected true or false`);
  }
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new OptionError('signal must be an AbortSignal, such as new AbortController().signal');
  }
  const { temperature, topK, topP, repetitionPenalty, suppressTokens, seed } = options;
  const sampling = { temperature, topK, topP, repetitionPenalty, suppressTokens, seed };
  checkSampling(sampling);
  const outside = suppressTokens.find((id) => id < 0 || id >= model.vocabSize);
  if (outside !== undefined) {
    throw new OptionError(`suppressTokens has the id ${outside}, expected 0 to ${model.vocabSize - 1}`);
  }
  return { sampling, maxNewTokens, constrained, logprobs, specialTokens, signal };
}
