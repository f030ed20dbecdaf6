/**
 * Constrained decoding: an answer to `detect` or `segment` consists of objects with the requested labels.
 *
 *     answer = nothing | object (" ; " object)*
 *     object = <loc> top, left, bottom, right, with area; for `segment` 16 <seg>; then a label
 *
 * (arXiv 2407.07726, section 3.2.5). A grammar lists the ids that may come next. The decode loop then takes the
 * most likely of these ids, or samples one of them. The grammar also knows how many tokens each continuation needs
 * to reach an end. It excludes the continuations that need more tokens than are left, so an answer is never cut
 * within an object.
 */

import { SEG_TOKENS_PER_MASK } from '../bundle/schema.js';
import { BundleError, OptionError } from '../errors.js';
import { LAST_SEGMENT } from '../text/special_tokens.js';
import { type PromptTokenizer, decodeIds, tokenOfNumber } from '../text/tokenizer.js';

/** Top, left, bottom, right. */
export const LOCATIONS_PER_BOX = 4;

/** `<seg>` tokens per object, by task. */
const MASK_TOKENS: ReadonlyMap<string, number> = new Map([
  ['detect', 0],
  ['segment', SEG_TOKENS_PER_MASK],
]);

/**
 * A node in the prefix tree of labels. The tree contains each label twice: with a separator after the label and
 * without.
 */
interface Node {
  readonly children: Map<number, Node>;
  /** The answer may end here. */
  ends: boolean;
  /** The separator is complete. */
  startsNextObject: boolean;
  minTokensToEnd: number;
}

/** Position of an answer in its current object. */
export interface GrammarState {
  /** An object was written, or is being written. */
  readonly hasObjects: boolean;
  /** Numbers (0 to 1023) of the location tokens so far. */
  readonly locations: readonly number[];
  /** Number of `<seg>` tokens so far. */
  readonly maskTokens: number;
  /** null until all location and mask tokens are written. */
  readonly label: Node | null;
}

export const initialState: GrammarState = { hasObjects: false, locations: [], maskTokens: 0, label: null };

/** Grammar of the answers to a prompt. */
export interface AnswerGrammar {
  /** From the top or left edge to the bottom or right edge. */
  readonly locationIds: readonly number[];
  readonly segmentIds: readonly number[];
  /** `<seg>` tokens per object, 16 or 0. */
  readonly maskTokens: number;
  /** Root of the labels' prefix tree. */
  readonly labels: Node;
  readonly stopIds: readonly number[];
}

/**
 * Return the ids that may come next, at least one.
 *
 * @param state Position in the answer.
 * @param tokensLeft Number of tokens that still fit into the answer, at least 1.
 */
export function allowedIds(grammar: AnswerGrammar, state: GrammarState, tokensLeft: number): readonly number[] {
  const { locationIds, stopIds } = grammar;
  const { label, locations } = state;
  if (label !== null) {
    const fitting = [...label.children].filter(([, child]) => child.minTokensToEnd < tokensLeft);
    return [...fitting.map(([id]) => id), ...(label.ends ? stopIds : [])];
  }
  if (locations.length === LOCATIONS_PER_BOX) return grammar.segmentIds;
  if (locations.length >= LOCATIONS_PER_BOX / 2) {
    return locationIds.slice(locations[locations.length - 2]! + 1); // bottom > top and right > left
  }
  const topOrLeft = locationIds.slice(0, -1);
  if (state.hasObjects) return topOrLeft;
  const minObjectTokens = LOCATIONS_PER_BOX + grammar.maskTokens + grammar.labels.minTokensToEnd;
  return minObjectTokens > tokensLeft ? stopIds : [...topOrLeft, ...stopIds];
}

/** Return the state that follows `state` after `tokenId`, an allowed id that is not a stop id. */
export function advance(grammar: AnswerGrammar, state: GrammarState, tokenId: number): GrammarState {
  if (state.label !== null) {
    const child = state.label.children.get(tokenId)!;
    return child.startsNextObject ? { ...initialState, hasObjects: true } : { ...state, label: child };
  }
  const next =
    state.locations.length === LOCATIONS_PER_BOX
      ? { ...state, maskTokens: state.maskTokens + 1 }
      : { ...state, hasObjects: true, locations: [...state.locations, grammar.locationIds.indexOf(tokenId)] };
  const isComplete = next.locations.length === LOCATIONS_PER_BOX && next.maskTokens === grammar.maskTokens;
  return isComplete ? { ...next, label: grammar.labels } : next;
}

/**
 * Return the grammar of a prompt's answers.
 *
 * @param prompt `detect LABEL ; LABEL` or `segment LABEL ; LABEL`.
 * @param stopIds Ids that end an answer.
 * @throws {OptionError} The task of the prompt is not `detect` or `segment`, or the prompt has a label that
 *   `parseAnswer` could not read in an answer.
 * @throws {BundleError} The tokenizer has no location or segment tokens.
 */
export function grammarForPrompt(
  prompt: string,
  tokenizer: PromptTokenizer,
  stopIds: readonly number[],
): AnswerGrammar {
  const [, task = '', listed = ''] = /^([^ ]*) ?(.*)$/s.exec(prompt.trim()) ?? [];
  const maskTokens = MASK_TOKENS.get(task);
  if (maskTokens === undefined) {
    throw new OptionError('constrained works for prompts that begin with `detect` or `segment` and a space');
  }
  const labels = [...new Set(listed.split(';').map((label) => label.trim()))];
  for (const label of labels) {
    const quoted = JSON.stringify(label.slice(0, 40));
    if (label.includes('<')) {
      throw new OptionError(`constrained: the label ${quoted} contains \`<\`, which begins a token`);
    }
    if (decodeIds(tokenizer, encodeInAnswer(tokenizer, label && ` ${label}`)).trim() !== label) {
      throw new OptionError(`constrained: the vocabulary cannot represent the label ${quoted}`);
    }
  }
  const segmentIds = Array.from({ length: LAST_SEGMENT + 1 }, (_, number) =>
    tokenizer.vocabulary.get(tokenOfNumber('seg', number, 3)),
  ).filter((id) => id !== undefined);
  if (tokenizer.locationIds.length < 2 || segmentIds.length === 0) {
    throw new BundleError(`${tokenizer.source}: has no location and segment tokens to constrain answers to`);
  }
  return {
    locationIds: tokenizer.locationIds,
    segmentIds,
    maskTokens,
    labels: labelTree(labels, tokenizer, LOCATIONS_PER_BOX + maskTokens),
    stopIds,
  };
}

/** Return the root of the prefix tree of the labels' ids, with `minTokensToEnd` set in every node. */
function labelTree(labels: readonly string[], tokenizer: PromptTokenizer, tokensBeforeLabel: number): Node {
  const root = newNode();
  const lengths = labels.map((label) => {
    const text = label && ` ${label}`;
    const ids = encodeInAnswer(tokenizer, text);
    insert(root, ids).ends = true;
    insert(root, encodeInAnswer(tokenizer, `${text} ; `)).startsNextObject = true;
    return ids.length;
  });
  measure(root, tokensBeforeLabel + Math.min(...lengths));
  return root;
}

/** Return the ids of a text. It is encoded between two location tokens, as it stands in an answer. */
function encodeInAnswer(tokenizer: PromptTokenizer, text: string): number[] {
  const edge = '<loc0000>';
  return tokenizer.encodeText(edge + text + edge).slice(1, -1);
}

function newNode(): Node {
  return { children: new Map(), ends: false, startsNextObject: false, minTokensToEnd: 0 };
}

/** Add a path of ids below a node; return its last node. */
function insert(node: Node, ids: readonly number[]): Node {
  let last = node;
  for (const id of ids) {
    const child = last.children.get(id) ?? newNode();
    last.children.set(id, child);
    last = child;
  }
  return last;
}

/** Set `minTokensToEnd` of a node and all nodes below it. */
function measure(node: Node, minObjectTokens: number): void {
  for (const child of node.children.values()) measure(child, minObjectTokens);
  const afterNext = Math.min(...[...node.children.values()].map((child) => 1 + child.minTokensToEnd));
  node.minTokensToEnd = node.ends ? 0 : node.startsNextObject ? minObjectTokens : afterNext;
}
