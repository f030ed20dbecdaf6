/**
 * Added tokens: texts such as `<loc0123>` that are found in a prompt before byte-pair encoding.
 *
 * The rules are those of the `tokenizers` library in Python. Those of the JavaScript library ignore the flag
 * `single_word`.
 */

/** An entry of `added_tokens` in tokenizer.json. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** The token is found only if no letter, digit or underscore stands next to it. */
  readonly single_word: boolean;
  /** The token takes the white space before it. */
  readonly lstrip: boolean;
  /** The token takes the white space after it. */
  readonly rstrip: boolean;
  /** The token is looked for after the text was normalised, in its normalised form. */
  readonly normalized: boolean;
  /** The token is hidden in answers. */
  readonly special: boolean;
}

/** A piece of a text: an id, or text that is left to encode. */
export type Piece = number | string;

const WORD = '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]'; // Unicode TR 18, annex C: \w
const ENDS_WITH_WORD = new RegExp(`${WORD}$`, 'u');
const STARTS_WITH_WORD = new RegExp(`^${WORD}`, 'u');
const SPACE_AT_END = /\p{White_Space}*$/u;
const SPACE_AT_START = /^\p{White_Space}*/u;

/**
 * Return a function that splits a text at added tokens.
 *
 * @param tokens The tokens to find.
 * @param normalize The form in which a token appears in the text.
 */
export function tokenSplitter(
  tokens: readonly AddedToken[],
  normalize: (text: string) => string,
): (text: string) => Piece[] {
  const byContent = new Map(tokens.map((token) => [normalize(token.content), token]));
  if (byContent.size === 0) return (text) => [text];
  // At each position the longest token wins: the first alternative that matches.
  const contents = [...byContent.keys()].sort((a, b) => b.length - a.length);
  const pattern = new RegExp(contents.map(escapePattern).join('|'), 'gu');
  return (text) => {
    const pieces: Piece[] = [];
    let end = 0; // of the pieces so far
    for (const match of text.matchAll(pattern)) {
      const token = byContent.get(match[0])!;
      let start = match.index;
      let stop = start + match[0].length;
      const before = text.slice(0, start);
      const after = text.slice(stop);
      if (token.single_word && (ENDS_WITH_WORD.test(before) || STARTS_WITH_WORD.test(after))) continue;
      if (token.lstrip) start = Math.max(SPACE_AT_END.exec(before)!.index, end);
      if (token.rstrip) stop += SPACE_AT_START.exec(after)![0].length;
      if (end < start) pieces.push(text.slice(end, start));
      pieces.push(token.id);
      end = stop;
    }
    if (end < text.length) pieces.push(text.slice(end));
    return pieces;
  };
}

function escapePattern(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, (char) => (char === '-' ? '\\x2d' : `\\${char}`));
}
