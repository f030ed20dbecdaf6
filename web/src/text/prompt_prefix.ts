/** The control tokens that a prompt may begin with, as in transformers: `<image>` and `<bos>`. */

import { PromptError } from '../errors.js';
import { BOS, IMAGE } from './special_tokens.js';

const PREFIX = new RegExp(`^(?:(?:${BOS})?((?:${IMAGE})+)(?:${BOS})?|${BOS})`);

/**
 * Return a prompt without the `<image>` tokens and the `<bos>` at its beginning.
 *
 * The driver adds these tokens itself. transformers asks for one `<image>` per image, and adds `<bos>`. The
 * characters after the prefix stay as they are, also a space or a newline.
 *
 * @param prompt The text, with or without a prefix.
 * @param images Number of images that the prompt is about.
 * @throws {PromptError} The prompt begins with `<image>`, but not once per image.
 */
export function dropPrefix(prompt: string, images: number): string {
  const prefix = PREFIX.exec(prompt);
  if (prefix === null) return prompt;
  const placeholders = (prefix[1] ?? '').length / IMAGE.length;
  if (placeholders !== 0 && placeholders !== images) {
    throw new PromptError(
      `the prompt begins with ${placeholders} ${IMAGE}, but ${images} ` +
        `${images === 1 ? 'image is' : 'images are'} given; write ${IMAGE} once per image or not at all`,
    );
  }
  return prompt.slice(prefix[0].length);
}
