/** The page: it connects its four sections with the worker that runs the model. */

import { answerPanel } from './answer_panel.js';
import { element, showStatus } from './elements.js';
import { imagePanel } from './image_panel.js';
import type { FromWorker, ToWorker } from './messages.js';
import { modelPanel } from './model_panel.js';
import { chosenOptions, chosenPrompt, connectKinds } from './prompt_panel.js';

/** Milliseconds to wait for the service worker, which does not control a page after a forced reload. */
const CONTROL_MS = 2000;

const controlled = registerServiceWorker();
const button = element('ask', HTMLButtonElement);
const stop = element('stop', HTMLButtonElement);
const status = element('ask-status', HTMLSpanElement);
let worker: Worker | null = null;
let hasModel = false;
let isBusy = false;

const model = modelPanel((message) => {
  if (message.kind === 'load') hasModel = false;
  setBusy(message.kind === 'load');
  void send(message);
});
const image = imagePanel(() => {
  answer.clear();
  update();
});
const answer = answerPanel(() => image.download());

connectKinds();
element('ask-form', HTMLFormElement).addEventListener('submit', (event) => {
  event.preventDefault();
  if (image.chosen === null || !hasModel || isBusy) return;
  answer.clear();
  image.drawObjects([]);
  setBusy(true, 'Running.');
  void send({ kind: 'ask', image: image.chosen.file, prompt: chosenPrompt(), options: chosenOptions() });
});
stop.addEventListener('click', () => void send({ kind: 'cancel' }));
update();

/** Send a message to the worker, which starts with the first message. */
async function send(message: ToWorker): Promise<void> {
  await controlled; // then the service worker also stores the files that the worker loads
  worker ??= startWorker();
  worker.postMessage(message);
}

function startWorker(): Worker {
  const started = new Worker(new URL('worker.js', document.baseURI), { type: 'module' });
  started.onmessage = ({ data }: MessageEvent<FromWorker>) => receive(data);
  started.onerror = (event) => {
    event.preventDefault();
    started.terminate();
    worker = null;
    hasModel = false;
    setBusy(false);
    model.showFailure(
      `The browser ended the computation (${event.message || 'no reason is known'}). Reload the page; if it happens ` +
        'again, close other tabs or use a smaller bundle.',
    );
  };
  return started;
}

function receive(message: FromWorker): void {
  switch (message.kind) {
    case 'progress':
      return model.showProgress(message.progress);
    case 'loaded':
      hasModel = true;
      model.showLoaded(message.model);
      return setBusy(false);
    case 'piece':
      return answer.append(message.piece);
    case 'answer':
      image.drawObjects(message.answer.objects ?? []);
      answer.show(message.answer);
      return setBusy(false);
    case 'failed':
      if (message.during === 'load') model.showFailure(message.message);
      setBusy(false);
      if (message.during === 'ask') showStatus(status, message.message || 'Stopped.', message.message !== '');
  }
}

function setBusy(busy: boolean, text = ''): void {
  isBusy = busy;
  stop.hidden = text === '';
  showStatus(status, text);
  update();
}

/** Enable the button if a request can start, and say what is missing. */
function update(): void {
  button.disabled = isBusy || !hasModel || image.chosen === null;
  if (isBusy) return;
  const missing = [...(hasModel ? [] : ['Load a model']), ...(image.chosen === null ? ['choose an image'] : [])];
  if (missing.length > 0) showStatus(status, `${missing.join(' and ')} first.`.replace(/^c/, 'C'));
  else if (status.textContent?.endsWith('first.') === true) showStatus(status, '');
}

/** Register the service worker, which makes the page work offline; return when it controls this page, or soon. */
async function registerServiceWorker(): Promise<void> {
  const container = navigator.serviceWorker as ServiceWorkerContainer | undefined; // undefined without https
  if (container === undefined || container.controller !== null) return;
  const control = new Promise((resolve) => container.addEventListener('controllerchange', resolve, { once: true }));
  const timeout = new Promise((resolve) => setTimeout(resolve, CONTROL_MS));
  try {
    await container.register(new URL('service_worker.js', document.baseURI));
  } catch (error) {
    console.warn(`the page does not work offline: ${String(error)}`);
    return;
  }
  await Promise.race([control, timeout]);
}
