/**
 * Scores of objects, computed from the probabilities of the tokens that describe them.
 *
 * The scores are the model's own probabilities. They rank objects; they are not calibrated
 * (docs/detection-scores.md).
 */

import { LOCATIONS_PER_BOX } from '../generation/constraints.js';
import type { Generation } from '../generation/types.js';
import { Detokenizer, type PromptTokenizer } from '../text/tokenizer.js';
import type { ParsedObject } from './parsing.js';

/** The model's probabilities (0 to 1) of the box and the label of an object that it wrote. */
export interface ObjectScore {
  /**
   * Geometric mean over the four edges of the probability of a location within 20 / 1,024 of the image's side, given
   * the tokens before it.
   */
  readonly box: number;
  /** Probability of the tokens of the label, given the tokens before them. */
  readonly label: number;
}

/** Return the text of an answer without special tokens, and the position at which each token begins. */
export function answerText(
  { tokenIds }: Generation,
  tokenizer: PromptTokenizer,
): { text: string; starts: readonly number[] } {
  const detokenizer = new Detokenizer(tokenizer);
  let text = '';
  const starts = tokenIds.map((id) => {
    const start = text.length;
    text += detokenizer.push(id);
    return start;
  });
  return { text: text + detokenizer.finish(), starts };
}

/**
 * Return the score of an object, or null if the generation has no probabilities.
 *
 * @param starts Position in the answer's text at which each token begins.
 */
export function scoreObject(
  parsed: ParsedObject,
  { logprobs, locationProbs }: Generation,
  starts: readonly number[],
): ObjectScore | null {
  if (logprobs === null || locationProbs === null) return null;
  const [boxStart, boxEnd, labelStart, labelEnd] = parsed.positions;
  const within = (start: number, end: number) => (_: unknown, index: number) =>
    starts[index]! >= start && starts[index]! < end;
  const edges = locationProbs.filter(within(boxStart, boxEnd)).filter((probability) => probability !== null);
  const label = Math.exp(logprobs.filter(within(labelStart, labelEnd)).reduce((sum, each) => sum + each, 0));
  if (edges.length !== LOCATIONS_PER_BOX) return { box: 0, label }; // a text that reads like a location
  return { box: edges.reduce((product, each) => product * each, 1) ** (1 / LOCATIONS_PER_BOX), label };
}
