/** Section 3 of the page: the kind of prompt, its text, and the options. */

import { taskPrompt } from '../src/detection/prompts.js';
import type { Options } from '../src/generation/types.js';
import { element } from './elements.js';
import type { PromptKind } from './messages.js';

/** For each kind: the label of its text, its first value, and the prompt that PaliGemma was trained with. */
const KINDS: Record<PromptKind, readonly [label: string, value: string, prompt: (text: string) => string]> = {
  caption: ['Language of the caption', 'en', (text) => `caption ${text}`],
  answer: ['Question', '', (text) => `answer en ${text}`],
  detect: ['Objects, separated by ;', '', (text) => taskPrompt('detect', text)],
  segment: ['Objects, separated by ;', '', (text) => taskPrompt('segment', text)],
  free: ['Prompt', '', (text) => text],
};

/** Connect the choice of a kind with the field of its text. Each kind keeps its text. */
export function connectKinds(): void {
  const text = element('text', HTMLInputElement);
  const texts = new Map(Object.entries(KINDS).map(([kind, [, value]]) => [kind, value]));
  let shown: string = chosenKind();
  const show = (): void => {
    texts.set(shown, text.value);
    shown = chosenKind();
    element('text-label', HTMLLabelElement).textContent = KINDS[shown as PromptKind][0];
    text.value = texts.get(shown) ?? '';
    text.required = shown !== 'free';
    text.pattern = text.required ? '.*\\S.*' : '.*'; // more than spaces
  };
  for (const radio of radios()) radio.addEventListener('change', show);
  show();
  // The browser cannot point to an invalid field in a closed element.
  const options = element('options', HTMLDetailsElement);
  options.addEventListener('invalid', () => (options.open = true), true);
}

/** Return the prompt that the fields describe; throw PromptError if they name no object to detect. */
export function chosenPrompt(): string {
  return KINDS[chosenKind()][2](element('text', HTMLInputElement).value.trim());
}

/** Return the options that the fields describe; the driver checks them. */
export function chosenOptions(): Options {
  const number = (id: string): number | undefined => {
    const { value, valueAsNumber } = element(id, HTMLInputElement);
    return value === '' ? undefined : valueAsNumber;
  };
  const seed = element('seed', HTMLInputElement).value;
  const given = {
    maxNewTokens: number('max-tokens'),
    temperature: number('temperature'),
    topP: number('top-p'),
    seed: seed === '' ? undefined : BigInt(seed),
    constrained: element('constrained', HTMLInputElement).checked || undefined,
  };
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

function chosenKind(): PromptKind {
  return (radios().find(({ checked }) => checked)?.value ?? 'caption') as PromptKind;
}

function radios(): HTMLInputElement[] {
  return [...document.querySelectorAll<HTMLInputElement>('input[name="kind"]')];
}
