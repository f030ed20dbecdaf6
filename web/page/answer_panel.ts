/** Section 4 of the page: the answer, its objects, timings, and what to do with it. */

import { colourOf } from './drawing.js';
import { element, showStatus } from './elements.js';
import type { Answer } from './messages.js';

/** Tokens of coordinates and of masks. */
const CODES = /<(?:loc[0-9]{4}|seg[0-9]{3})>/g;

export interface AnswerPanel {
  /** Remove the last answer. */
  clear(): void;
  append(piece: string): void;
  show(answer: Answer): void;
}

/**
 * Connect the section with functions.
 *
 * @param download downloads the drawing.
 */
export function answerPanel(download: () => Promise<void>): AnswerPanel {
  const text = element('text-answer', HTMLOutputElement);
  const status = element('answer-status', HTMLSpanElement);
  const copy = element('copy', HTMLButtonElement);
  const save = element('download', HTMLButtonElement);
  const raw = element('raw', HTMLDetailsElement);
  let written = ''; // by the model
  let json = '';

  /** Show what the model has written. Codes are not for people: they stand in an element that is closed at first. */
  const showText = (): void => {
    const readable = written.replace(CODES, '');
    raw.hidden = readable === written;
    text.value = raw.hidden ? written : readable.replace(/\s+/g, ' ').trim();
    element('raw-text', HTMLElement).textContent = written;
  };

  const report = (done: Promise<void>, success: string): void => {
    done.then(
      () => showStatus(status, success),
      (error: unknown) => showStatus(status, String(error), true),
    );
  };
  copy.addEventListener('click', () => report(navigator.clipboard.writeText(json), 'Copied.'));
  save.addEventListener('click', () => report(download(), ''));

  return {
    clear() {
      written = '';
      showText();
      json = '';
      copy.disabled = true;
      save.disabled = true;
      showStatus(status, '');
      element('timings', HTMLParagraphElement).textContent = '';
      element('warnings', HTMLUListElement).replaceChildren();
      element('objects', HTMLTableElement).hidden = true;
    },
    append(piece) {
      written += piece;
      showText();
    },
    show(answer) {
      written = answer.text;
      showText();
      raw.open = text.value === '';
      ({ json } = answer);
      copy.disabled = false;
      save.disabled = false;
      element('timings', HTMLParagraphElement).textContent = describeTimings(answer);
      element('warnings', HTMLUListElement).replaceChildren(...answer.warnings.map(listItem));
      showObjects(answer);
      if (answer.objects?.length === 0) showStatus(status, 'No object was found.');
    },
  };
}

function showObjects({ objects }: Answer): void {
  const table = element('objects', HTMLTableElement);
  table.hidden = objects === null || objects.length === 0;
  const rows = (objects ?? []).map(({ label, score, box }, index) => {
    const row = document.createElement('tr');
    const swatch = document.createElement('span');
    swatch.className = 'swatch';
    swatch.style.background = colourOf(index);
    const name = row.insertCell();
    name.append(swatch, label);
    row.insertCell().textContent = score.toFixed(2);
    row.insertCell().textContent = box.map(Math.round).join(', ');
    return row;
  });
  table.tBodies[0]?.replaceChildren(...rows);
}

function describeTimings({ timings, tokens, finishReason }: Answer): string {
  const { visionS, prefillS, decodeS, timeToFirstTokenS, tokensPerSecond } = timings;
  const ends = { stop: '', length: ', cut at the maximum number of tokens', cancelled: ', stopped' }[finishReason];
  const speed = tokensPerSecond > 0 ? `, ${tokensPerSecond.toFixed(1)} tokens per second` : '';
  const stages = `vision ${visionS.toFixed(2)} s, prefill ${prefillS.toFixed(2)} s, decode ${decodeS.toFixed(2)} s`;
  return `${tokens} tokens${ends}. First token after ${timeToFirstTokenS.toFixed(2)} s (${stages})${speed}.`;
}

function listItem(warning: string): HTMLLIElement {
  const item = document.createElement('li');
  item.textContent = warning;
  return item;
}
