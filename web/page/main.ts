/** The page: it connects its four sections with the worker that runs the model. */

import { answerPanel } from './answer_panel.js';
import { element, showStatus } from './elements.js';
import { type ChosenImage, imagePanel } from './image_panel.js';
import type { FromWorker, LoadMessage, ToWorker } from './messages.js';
import { modelPanel } from './model_panel.js';
import { chosenOptions, chosenPrompt, connectKinds } from './prompt_panel.js';

/** Address of the worker's script, relative to the page; the build defines it. */
declare const WORKER: string;

/** Milliseconds after which a model loads without the service worker, which a slow connection delays. */
const CONTROL_MS = 20_000;

const controlled = registerServiceWorker();
const button = element('ask', HTMLButtonElement);
const stop = element('stop', HTMLButtonElement);
const status = element('ask-status', HTMLSpanElement);
let worker: Worker | null = null;
let hasModel = false;
/** What the worker loads or has loaded. */
let requested: LoadMessage | null = null;
/** The image of the request that runs; null: none runs. */
let asked: ChosenImage | null = null;
/** Number of loads that were started or stopped. */
let loads = 0;

const model = modelPanel((message) => void load(message), stopLoading);
const image = imagePanel(() => {
  if (asked !== null) send({ kind: 'cancel' }); // its answer is about the previous image
  answer.clear();
  update();
});
const answer = answerPanel(() => image.download());

connectKinds();
element('ask-form', HTMLFormElement).addEventListener('submit', (event) => {
  event.preventDefault();
  if (image.chosen === null || !hasModel || asked !== null) return;
  try {
    send({ kind: 'ask', image: image.chosen.file, prompt: chosenPrompt(), options: chosenOptions() });
  } catch (error) {
    return showStatus(status, error instanceof Error ? error.message : String(error), true);
  }
  answer.clear();
  image.drawObjects([]);
  setAsked(image.chosen, 'Running.');
});
stop.addEventListener('click', () => send({ kind: 'cancel' }));
update();

/** Load a bundle in a new worker. The previous one ends, whatever it does, and frees its memory. */
async function load(message: LoadMessage): Promise<void> {
  if (asked !== null) answer.clear(); // it stays incomplete
  endWorker();
  const current = ++loads;
  await controlled; // then the service worker also stores the files that the worker loads
  if (current !== loads) return;
  worker = startWorker();
  requested = message;
  send(message);
  update();
}

function stopLoading(): void {
  loads++;
  endWorker();
  model.showFailure('');
}

function endWorker(): void {
  worker?.terminate();
  worker = null;
  hasModel = false;
  setAsked(null);
}

function send(message: ToWorker): void {
  worker?.postMessage(message);
}

function startWorker(): Worker {
  const started = new Worker(new URL(WORKER, document.baseURI), { type: 'module' });
  started.onmessage = ({ data }: MessageEvent<FromWorker>) => {
    if (started === worker) receive(data); // messages may arrive after a worker was ended
  };
  started.onerror = (event) => {
    event.preventDefault();
    if (started !== worker) return;
    endWorker();
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
      return update();
    case 'gpuFailed':
      if (requested !== null) void load({ ...requested, device: 'cpu', gpuProblem: message.message });
      return;
    case 'piece':
      if (asked === image.chosen) answer.append(message.piece);
      return;
    case 'answer':
      if (asked === image.chosen) {
        image.drawObjects(message.answer.objects ?? []);
        answer.show(message.answer);
      }
      return setAsked(null);
    case 'failed':
      if (message.during === 'load') {
        endWorker(); // it may hold much memory
        return model.showFailure(message.message);
      }
      setAsked(null);
      showStatus(status, message.message || 'Stopped.', message.message !== '');
  }
}

/** Show that a request about an image runs, or that none runs. */
function setAsked(about: ChosenImage | null, text = ''): void {
  const focused = document.activeElement;
  asked = about;
  stop.hidden = about === null;
  element('text-answer', HTMLOutputElement).ariaBusy = String(about !== null); // read aloud when it is complete
  showStatus(status, text);
  update();
  // An element that is hidden or disabled loses the focus.
  if (focused === button && about !== null) stop.focus();
  if (focused === stop && about === null) button.focus();
}

/** Enable the button if a request can start, and say what is missing. */
function update(): void {
  button.disabled = asked !== null || !hasModel || image.chosen === null;
  if (asked !== null) return;
  const missing = [...(worker === null ? ['Load a model'] : []), ...(image.chosen === null ? ['choose an image'] : [])];
  if (missing.length > 0) showStatus(status, `${missing.join(' and ')} first.`.replace(/^c/, 'C'));
  else if (status.textContent?.endsWith('first.') === true) showStatus(status, '');
}

/** Register the service worker, which makes the page work offline; return when it controls this page, or cannot. */
async function registerServiceWorker(): Promise<void> {
  const container = navigator.serviceWorker as ServiceWorkerContainer | undefined; // undefined without https
  if (container === undefined || container.controller !== null) return;
  const control = new Promise<void>((resolve) => {
    container.addEventListener('controllerchange', () => resolve(), { once: true });
  });
  const timeout = new Promise<void>((resolve) => setTimeout(resolve, CONTROL_MS));
  const registered = container.register(new URL('service_worker.js', document.baseURI));
  const ready = registered
    .then(({ installing, waiting, active }) => Promise.race([control, finished(installing ?? waiting ?? active)]))
    .catch((error: unknown) => console.warn(`the page does not work offline: ${String(error)}`));
  await Promise.race([ready, timeout]);
}

/** Wait until a service worker is active or was discarded. An active one does not control a page after a forced reload. */
function finished(installed: ServiceWorker | null): Promise<void> {
  const isFinished = (): boolean => installed === null || ['activated', 'redundant'].includes(installed.state);
  return new Promise((resolve) => {
    if (isFinished()) resolve();
    installed?.addEventListener('statechange', () => isFinished() && resolve());
  });
}
