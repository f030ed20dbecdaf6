/** Prompts of `detect` and `segment` for given labels. */

import { PromptError } from '../errors.js';
import { dropPrefix } from '../text/prompt_prefix.js';

export type Task = 'detect' | 'segment';

/**
 * Return the prompt of a task for some labels: `detect cat ; dog`.
 *
 * @param labels Text with labels separated by semicolons, or an array of labels. The text may also be the whole
 *   prompt, with the task and optionally `<image>` and `<bos>` before the labels.
 * @throws {PromptError} No label is given, or a label is not text or contains a semicolon.
 */
export function taskPrompt(task: Task, labels: string | readonly string[]): string {
  const listed: readonly string[] = typeof labels === 'string' ? withoutTask(task, labels).split(';') : labels;
  if (!Array.isArray(listed) || !listed.every((label) => typeof label === 'string')) {
    throw new PromptError('labels must be a text, or an array of texts');
  }
  if (listed.some((label) => label.includes(';'))) {
    throw new PromptError('a label contains a semicolon, which separates labels; give them as separate items');
  }
  const stripped = listed.map((label) => label.trim()).filter((label) => label !== '');
  if (stripped.length === 0) throw new PromptError(`no label to ${task} was given; give labels, such as 'cat ; dog'`);
  return `${task} ${stripped.join(' ; ')}`;
}

/** Return the labels of a text that is either the labels or the whole prompt. */
function withoutTask(task: Task, prompt: string): string {
  return dropPrefix(prompt, 1).replace(new RegExp(`^\\s*${task}(?:\\s+|$)`, 'i'), '');
}
