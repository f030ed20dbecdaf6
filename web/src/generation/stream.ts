/** An answer that is generated while it is iterated. */

import type { Generation } from './types.js';

/**
 * An answer that is generated while it is iterated; `PaliGemma.stream` returns it.
 *
 * Iteration yields non-empty pieces of text. Each piece consists of whole characters. A stream can be iterated only
 * once.
 */
export class Stream implements AsyncIterable<string> {
  readonly #pieces: AsyncGenerator<string>;
  readonly #result: () => Generation;

  constructor(pieces: AsyncGenerator<string>, result: () => Generation) {
    this.#pieces = pieces;
    this.#result = result;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<string> {
    for await (const piece of this.#pieces) if (piece !== '') yield piece;
  }

  /** The answer generated so far. It is complete when the iteration has ended. */
  get result(): Generation {
    return this.#result();
  }
}
