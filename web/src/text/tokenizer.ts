/**
 * Conversion of prompts to token ids and of token ids to text, with PaliGemma's tokenizer.json.
 *
 * Shapes: docs/notation.md.
 */

import { BundleError, PromptError } from '../errors.js';
import { dropPrefix } from './prompt_prefix.js';
import { BOS, CONTROL_TOKENS, EOS, IMAGE, LAST_LOCATION, PAD } from './special_tokens.js';
import { readTokenizerFile, SPACE } from './tokenizer_json.js';

const NEWLINE = '\n';

/** A Gemma tokenizer that never turns a prompt into a control token. */
export interface PromptTokenizer {
  readonly bosId: number;
  readonly eosId: number;
  readonly padId: number;
  readonly imageId: number;
  readonly newlineId: number;
  /** Largest id + 1. Rows of the embedding from `size` on have no token. */
  readonly size: number;
  /** Ids of `<bos>`, `<eos>`, `<pad>`, `<unk>` and `<image>`. A prompt that contains one of these is refused. */
  readonly controlIds: ReadonlySet<number>;
  /**
   * The control ids, and the other ids that the file declares special, such as the tokens that a fine-tune added.
   * They are hidden in an answer unless the caller asks for them.
   */
  readonly specialIds: ReadonlySet<number>;
  /** Id of each `<0xNN>` token -> the byte NN. */
  readonly byteValues: ReadonlyMap<number, number>;
  /** Number of UTF-8 bytes of the longest token. No token stands for more bytes of a prompt. */
  readonly maxTokenBytes: number;
  /** Ids of the location tokens that the vocabulary has, from the top or left edge. */
  readonly locationIds: readonly number[];
  /** The file, for messages. */
  readonly source: string;
  /** Token -> id. */
  readonly vocabulary: ReadonlyMap<string, number>;
  /** The token of each id; ids without a token have no element. */
  readonly names: readonly (string | undefined)[];
  /** Return the ids of a text, without BOS. No control token is refused. */
  readonly encodeText: (text: string) => number[];
}

/**
 * Return the tokenizer that a tokenizer.json describes.
 *
 * @param content The text of the file.
 * @param source The file's name in messages.
 * @throws {BundleError} The file is damaged, or is not a tokenizer of PaliGemma.
 */
export function loadTokenizer(content: string, source: string): PromptTokenizer {
  const { encode, vocabulary, specialIds, byteValues } = readTokenizerFile(content, source);
  const missing = [BOS, EOS, PAD, IMAGE, NEWLINE].filter((token) => !vocabulary.has(token));
  if (missing.length > 0) {
    throw new BundleError(
      `${source}: is not PaliGemma's: it lacks ${missing.map((token) => JSON.stringify(token)).join(', ')}; ` +
        'take tokenizer.json from a PaliGemma checkpoint',
    );
  }
  const idOf = (token: string): number => vocabulary.get(token)!;
  const controlIds = new Set(CONTROL_TOKENS.filter((token) => vocabulary.has(token)).map(idOf));
  const names: string[] = [];
  for (const [token, id] of vocabulary) names[id] = token;
  const locations = Array.from({ length: LAST_LOCATION + 1 }, (_, place) => tokenOfNumber('loc', place, 4));
  return {
    bosId: idOf(BOS),
    eosId: idOf(EOS),
    padId: idOf(PAD),
    imageId: idOf(IMAGE),
    newlineId: idOf(NEWLINE),
    size: names.length,
    controlIds,
    specialIds: new Set([...specialIds, ...controlIds]),
    byteValues,
    maxTokenBytes: longestToken(vocabulary.keys()),
    locationIds: locations.filter((token) => vocabulary.has(token)).map(idOf),
    source,
    vocabulary,
    names,
    encodeText: encode,
  };
}

/** Return a token such as `<loc0012>`, of a kind, a number and a number of digits. */
export function tokenOfNumber(kind: 'loc' | 'seg', number: number, digits: number): string {
  return `<${kind}${String(number).padStart(digits, '0')}>`;
}

/**
 * Return the ids of BOS, the prompt and a newline: T ids, where T is at most `maxTokens`.
 *
 * `<image>` once per image and `<bos>` at the beginning of the prompt are dropped (`dropPrefix`).
 *
 * Prompt and newline are tokenised together, as in transformers. The texts `<loc0123>`, `<seg001>` and those of a
 * fine-tune's special tokens are encoded as the tokens with these names.
 *
 * @param tokenizer The bundle's tokenizer.
 * @param prompt The text.
 * @param maxTokens The largest number of ids.
 * @param images Number of images that the prompt is about.
 * @throws {PromptError} The prompt is not valid Unicode text, is too long, begins with a wrong number of `<image>`,
 * or contains a control token elsewhere.
 */
export function encodePrompt(
  tokenizer: PromptTokenizer,
  prompt: string,
  maxTokens: number,
  images = 1,
): number[] {
  if (typeof prompt !== 'string') throw new PromptError(`the prompt must be a string, not ${typeof prompt}`);
  const surrogate = /\p{Surrogate}/u.exec(prompt);
  if (surrogate !== null) {
    throw new PromptError(
      `the prompt contains half a character (the surrogate ${codePoint(surrogate[0])}) at position ` +
        `${surrogate.index}; pass valid Unicode`,
    );
  }
  const text = dropPrefix(prompt, images);
  const length = utf8Length(text);
  const limit = maxTokens * tokenizer.maxTokenBytes;
  if (length > limit) {
    throw new PromptError(
      `the prompt is ${length} bytes long and cannot fit: ${maxTokens} tokens are left for it, ` +
        `at most ${limit} bytes; shorten it`,
    );
  }
  const textIds = tokenizer.encodeText(text + NEWLINE);
  const controlId = textIds.find((id) => tokenizer.controlIds.has(id));
  if (controlId !== undefined) {
    throw new PromptError(
      `the prompt contains the control token ${tokenizer.names[controlId]}; remove it ` +
        `(${IMAGE}, once per image, and ${BOS} are accepted at the beginning, where they are dropped)`,
    );
  }
  const ids = [tokenizer.bosId, ...textIds];
  if (ids.length > maxTokens) {
    throw new PromptError(
      `the prompt is ${ids.length} tokens long, ${BOS} and newline included, but ${maxTokens} are ` +
        'left for it; shorten it',
    );
  }
  return ids;
}

/** Return the text of the ids: all pieces of a `Detokenizer`, joined. */
export function decodeIds(tokenizer: PromptTokenizer, ids: Iterable<number>): string {
  const detokenizer = new Detokenizer(tokenizer);
  return [...Array.from(ids, (id) => detokenizer.push(id)), detokenizer.finish()].join('');
}

/**
 * Converts the ids of an answer to text, id by id, in pieces of whole characters.
 *
 * It converts each token separately, except for byte tokens. The bytes of a character that is encoded in byte
 * tokens are held back until the character is complete. Each maximal part of an invalid UTF-8 character becomes one
 * U+FFFD. Ids without a token have no text; special tokens have text only on request.
 */
export class Detokenizer {
  readonly #tokenizer: PromptTokenizer;
  readonly #specialTokens: boolean;
  readonly #utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

  /** Start an answer. If `specialTokens` is true, the text of special tokens is included. */
  constructor(tokenizer: PromptTokenizer, specialTokens = false) {
    this.#tokenizer = tokenizer;
    this.#specialTokens = specialTokens;
  }

  /** Return the text that an id completes. The text may be empty. */
  push(id: number): string {
    const { names, specialIds, byteValues } = this.#tokenizer;
    const name = names[id];
    if (name === undefined || (specialIds.has(id) && !this.#specialTokens)) return '';
    const byte = byteValues.get(id);
    if (byte !== undefined) return this.#utf8.decode(Uint8Array.of(byte), { stream: true });
    return this.finish() + name.replaceAll(SPACE, ' ');
  }

  /** Return U+FFFD if the last character is incomplete, otherwise an empty text. */
  finish(): string {
    return this.#utf8.decode();
  }
}

function codePoint(char: string): string {
  return `U+${char.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}`;
}

function longestToken(tokens: Iterable<string>): number {
  let longest = 0;
  for (const token of tokens) {
    // A character of a string takes at most 3 bytes; most tokens are too short to be counted.
    if (3 * token.length > longest) longest = Math.max(longest, utf8Length(token.replaceAll(SPACE, ' ')));
  }
  return longest;
}

function utf8Length(text: string): number {
  return new TextEncoder().encode(text).length;
}
