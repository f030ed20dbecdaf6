/**
 * Build Gemma's tokenizer from the content of a tokenizer.json.
 *
 * The tokenizer is built from the vocabulary, the merges and the added tokens of the file. Other content of the
 * file (padding, truncation, the post-processor of PaliGemma 1 that adds BOS) has no effect. Byte-pair encoding is
 * that of @huggingface/tokenizers.
 */

import { BPE } from '@huggingface/tokenizers';

import { BundleError } from '../errors.js';
import { type AddedToken, tokenSplitter } from './added_tokens.js';
import { CONTROL_TOKENS } from './special_tokens.js';

/** U+2581 stands for a space in SentencePiece (arXiv 1808.06226, section 3.2). */
export const SPACE = '\u2581';

const MAX_ID = 2 ** 24; // sixty times the largest published vocabulary
const NORMALIZER: Step[] = [{ type: 'Replace', pattern: { String: ' ' }, content: SPACE }];
// The pre-tokenizer is accepted but not built: it splits at spaces, and the normalizer leaves no spaces.
const SPLIT: Step[] = [
  { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false },
];
const DECODER: Step[] = [
  { type: 'Replace', pattern: { String: SPACE }, content: ' ' },
  { type: 'ByteFallback' },
  { type: 'Fuse' },
];
// Options of BPE that Gemma does not use.
const UNUSED_BPE_OPTIONS = [
  'dropout',
  'continuing_subword_prefix',
  'end_of_word_suffix',
  'ignore_merges',
] as const;

type Step = Readonly<Record<string, unknown>> & { readonly type: string };

interface BpeModel {
  readonly type: string;
  readonly byte_fallback: boolean;
  readonly vocab: Readonly<Record<string, number>>;
  readonly merges: readonly (string | readonly [string, string])[];
  readonly [option: string]: unknown;
}

interface TokenizerDocument {
  readonly normalizer: Step;
  readonly pre_tokenizer: Step | null;
  readonly decoder: Step;
  readonly model: BpeModel;
  readonly added_tokens: readonly AddedToken[];
}

/** Content of a tokenizer.json that passed the checks. */
export interface TokenizerFile {
  /** Return the ids of a text, without BOS. */
  readonly encode: (text: string) => number[];
  /** Token -> id, added tokens included. */
  readonly vocabulary: ReadonlyMap<string, number>;
  /** Ids of the tokens that the file declares special. */
  readonly specialIds: ReadonlySet<number>;
  /** Id of each `<0xNN>` token -> the byte. */
  readonly byteValues: ReadonlyMap<number, number>;
}

/** The file cannot be used. The message completes a sentence that begins with the name of the file. */
class InvalidFileError extends Error {}

/**
 * Check the content of the tokenizer.json of a Gemma model, and return it.
 *
 * @param content The text of the file.
 * @param source The file's name in messages.
 * @throws {BundleError} The file is damaged, or is not a tokenizer of Gemma.
 */
export function readTokenizerFile(content: string, source: string): TokenizerFile {
  try {
    return build(parse(content));
  } catch (error) {
    const reason =
      error instanceof InvalidFileError ? error.message : 'is damaged: a field is missing or has a wrong type';
    throw new BundleError(`${source}: ${reason}; copy tokenizer.json from the checkpoint again`, { cause: error });
  }
}

function parse(content: string): TokenizerDocument {
  if (content.startsWith('version https://git-lfs')) {
    throw new InvalidFileError('is a Git LFS pointer: run git lfs pull');
  }
  try {
    return JSON.parse(content) as TokenizerDocument; // `build` throws where the content has other types
  } catch (error) {
    throw new InvalidFileError('is cut short or is not JSON', { cause: error });
  }
}

function build(document: TokenizerDocument): TokenizerFile {
  const { normalizer, pre_tokenizer: splitter, decoder, model } = document;
  const isGemma =
    hasSteps(normalizer, 'normalizers', NORMALIZER) &&
    (splitter === null || hasSteps(splitter, 'pretokenizers', SPLIT)) &&
    hasSteps(decoder, 'decoders', DECODER);
  if (!isGemma) {
    throw new InvalidFileError("is not Gemma's: its normalizer, pre-tokenizer or decoder differ");
  }
  const vocabulary = new Map(Object.entries(model.vocab));
  const bpe = buildBpe(model, vocabulary);
  const added = addTokens(vocabulary, document.added_tokens);
  const normalize = (text: string): string => text.replaceAll(' ', SPACE);
  const splitRaw = tokenSplitter(added.filter((token) => !token.normalized), (text) => text);
  const splitNormalized = tokenSplitter(added.filter((token) => token.normalized), normalize);
  return {
    encode: (text) =>
      splitRaw(text)
        .flatMap((piece) => (typeof piece === 'string' ? splitNormalized(normalize(piece)) : [piece]))
        .flatMap((piece) => (typeof piece === 'string' ? bpe(piece) : [piece])),
    vocabulary,
    specialIds: new Set(added.filter((token) => token.special).map((token) => token.id)),
    byteValues: byteValues(vocabulary),
  };
}

/** Return whether a section is the expected step, or a sequence of the expected steps. */
function hasSteps(section: Step, inner: string, expected: readonly Step[]): boolean {
  const steps = section.type === 'Sequence' ? (section[inner] as Step[]) : [section];
  const agrees = (step: Step, fields: Step): boolean =>
    Object.entries(fields).every(([name, value]) => JSON.stringify(step[name]) === JSON.stringify(value));
  return steps.length === expected.length && expected.every((fields, index) => agrees(steps[index]!, fields));
}

/** Return Gemma's byte-pair encoding. It has a token for every byte, so it needs no unknown token. */
function buildBpe(model: BpeModel, vocabulary: ReadonlyMap<string, number>): (text: string) => number[] {
  if (model.type !== 'BPE' || model.byte_fallback !== true || UNUSED_BPE_OPTIONS.some((name) => model[name])) {
    throw new InvalidFileError("is not Gemma's: it is not a plain BPE model with byte fallback");
  }
  const ids = new Set(vocabulary.values());
  const isId = (id: number): boolean => Number.isInteger(id) && id >= 0 && id < MAX_ID;
  if (ids.size !== vocabulary.size || ![...ids].every(isId)) {
    throw new InvalidFileError('is damaged: its vocabulary has duplicate ids or ids out of range');
  }
  // A merge is a list of two tokens or, in older files, a text with a space between them.
  // Unlike in Python, a merge of tokens that are not in the vocabulary does no harm, and is not looked for.
  const merges = model.merges.map((merge) => (typeof merge === 'string' ? merge.split(' ') : merge));
  const bpe = new BPE({
    type: 'BPE',
    vocab: model.vocab,
    merges: merges as [string, string][],
    byte_fallback: true,
    ignore_merges: false,
  });
  return (text) => bpe.encode([text]).map((token) => vocabulary.get(token)!);
}

/** Add the file's added tokens to the vocabulary; return them, with the control tokens that are not among them. */
function addTokens(vocabulary: Map<string, number>, entries: readonly AddedToken[]): AddedToken[] {
  const size = vocabulary.size;
  const added = new Map<string, AddedToken>();
  let lastId = -1; // of the added tokens
  for (const entry of [...entries].sort((a, b) => a.id - b.id)) {
    const { content, id, special } = entry;
    const expected = vocabulary.get(content) ?? Math.max(size, lastId + 1);
    const before = added.get(content);
    if (content === '' || id !== expected || (before !== undefined && before.special !== special)) {
      throw new InvalidFileError('is damaged: its added tokens do not follow its vocabulary');
    }
    vocabulary.set(content, id);
    if (before === undefined) added.set(content, entry);
    lastId = Math.max(lastId, id);
  }
  // Byte-pair encoding would encode a control token that is not an added token character by character.
  for (const content of CONTROL_TOKENS.filter((token) => vocabulary.has(token) && !added.has(token))) {
    const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
    added.set(content, { id: vocabulary.get(content)!, content, ...flags });
  }
  return [...added.values()];
}

/** Return a map from the id of each byte token to the byte. */
function byteValues(vocabulary: ReadonlyMap<string, number>): Map<number, number> {
  const values = new Map<number, number>();
  for (let byte = 0; byte < 256; byte++) {
    const name = `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;
    // Gemma 1 has the token "\t" instead of <0x09>.
    const plain = byte < 128 ? vocabulary.get(String.fromCharCode(byte)) : undefined;
    const id = vocabulary.get(name) ?? plain;
    if (id === undefined) throw new InvalidFileError(`is not Gemma's: it has no token ${name}`);
    values.set(id, byte);
  }
  return values;
}
