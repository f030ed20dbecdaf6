import { PaliGemmaError } from '../../src/errors.js';

/** Return the value of a function or, if it throws an error for the user, the message. */
export async function valueOrMessage(compute: () => unknown): Promise<unknown> {
  try {
    return await compute();
  } catch (error) {
    if (error instanceof PaliGemmaError) return `${error.name}: ${error.message}`;
    throw error;
  }
}
