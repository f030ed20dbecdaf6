/** Section 1 of the page: choose a bundle, watch it load, and remove stored files. */

import type { LoadProgress } from '../src/load.js';
import { element, formatBytes, showStatus } from './elements.js';
import type { LoadedModel, LoadMessage } from './messages.js';
import { removeAll, storedBytes } from './storage.js';

/** What the section does with the results of the worker. */
export interface ModelPanel {
  showProgress(progress: LoadProgress): void;
  showLoaded(model: LoadedModel): void;
  /** `message` is empty if loading was stopped. */
  showFailure(message: string): void;
}

/**
 * Connect the section with functions.
 *
 * @param load starts to load a bundle; what was being loaded is given up.
 * @param stop gives it up.
 */
export function modelPanel(load: (message: LoadMessage) => void, stop: () => void): ModelPanel {
  const url = element('url', HTMLInputElement);
  const device = element('device', HTMLSelectElement);
  const threads = element('threads', HTMLInputElement);
  const progress = element('progress', HTMLDivElement);
  const status = element('model-status', HTMLParagraphElement);
  const lines = new Map<string, HTMLLIElement>();
  let source = '';

  const start = (from: string | readonly File[], name: string): void => {
    source = name;
    lines.clear();
    element('file-progress', HTMLUListElement).replaceChildren();
    element('total', HTMLProgressElement).value = 0;
    progress.hidden = false;
    showStatus(status, '');
    const chosen = device.value as 'auto' | 'cpu' | 'webgpu';
    const count = threads.value === '' ? null : threads.valueAsNumber;
    load({ kind: 'load', source: from, device: chosen, threads: count, gpuProblem: '' });
  };
  const finish = (): void => {
    if (progress.contains(document.activeElement)) element('load', HTMLButtonElement).focus(); // before it is hidden
    progress.hidden = true;
    void showStored();
  };

  element('load-form', HTMLFormElement).addEventListener('submit', (event) => {
    event.preventDefault();
    const address = url.value.trim();
    if (!URL.canParse(address, document.baseURI)) {
      return showStatus(status, `${address} is not an address; give one such as bundle/ or https://HOST/FOLDER/`, true);
    }
    void navigator.storage?.persist?.(); // asks the browser not to remove the files when space is short
    start(new URL(address, document.baseURI).href, address);
  });
  for (const id of ['folder', 'files']) {
    const input = element(id, HTMLInputElement);
    input.addEventListener('change', () => {
      if (input.files !== null && input.files.length > 0) start([...input.files], 'the chosen files');
      input.value = ''; // so that the same files can be chosen again
    });
  }
  element('cancel-load', HTMLButtonElement).addEventListener('click', stop);
  element('forget', HTMLButtonElement).addEventListener('click', () => void removeAll().then(showStored));
  void describeEnvironment(threads);
  void showStored();

  return {
    showProgress({ file, fileBytes, fileSize, bytes, size }) {
      const total = element('total', HTMLProgressElement);
      total.max = Math.max(1, size);
      total.value = bytes;
      total.textContent = `${formatBytes(bytes)} of ${formatBytes(size)}`;
      const line = lines.get(file) ?? document.createElement('li');
      if (!lines.has(file)) element('file-progress', HTMLUListElement).append(line);
      lines.set(file, line);
      line.textContent = `${file}: ${formatBytes(fileBytes)} of ${formatBytes(fileSize)}`;
    },
    showLoaded(model) {
      finish();
      const parameters = formatCount(model.parameters);
      const place = model.device === 'webgpu' ? 'the GPU' : `the CPU with ${model.threads} thread${plural(model.threads)}`;
      const loaded = `${model.family} (${parameters} parameters, ${model.precision}) from ${source}`;
      const masks = model.masks ? '' : ' It has no mask decoder, so segment shows boxes only.';
      const gpu = model.gpuProblem === '' ? '' : ` The GPU cannot be used: ${model.gpuProblem}.`;
      showStatus(status, `${loaded} is ready on ${place} after ${model.loadS.toFixed(1)} s.${masks}${gpu}`);
    },
    showFailure(message) {
      finish();
      showStatus(status, message || 'Loading was stopped.', message !== '');
    },
  };
}

/** Show what this browser can use. */
async function describeEnvironment(threads: HTMLInputElement): Promise<void> {
  const { gpu } = navigator as unknown as { gpu?: { requestAdapter(): Promise<object | null> } };
  const hasGpu = ((await gpu?.requestAdapter()) ?? null) !== null;
  threads.disabled = !globalThis.crossOriginIsolated;
  threads.placeholder = globalThis.crossOriginIsolated ? 'auto' : '1';
  const cores = globalThis.crossOriginIsolated
    ? `WebAssembly can use threads on ${navigator.hardwareConcurrency} processors.`
    : 'WebAssembly has one thread, because this page is not cross-origin isolated. Reload the page; if this text ' +
      'stays, the server must send the headers COOP and COEP.';
  const note = hasGpu ? 'WebGPU is available.' : 'This browser offers no WebGPU.';
  element('environment', HTMLParagraphElement).textContent = `${note} ${cores}`;
}

async function showStored(): Promise<void> {
  const bytes = await storedBytes();
  if (bytes === 0 && document.activeElement?.id === 'forget') element('load', HTMLButtonElement).focus();
  element('stored', HTMLParagraphElement).hidden = bytes === 0;
  element('stored-text', HTMLSpanElement).textContent = `${formatBytes(bytes)} are stored in this browser.`;
}

function formatCount(parameters: number): string {
  return parameters >= 1e9 ? `${(parameters / 1e9).toFixed(1)} billion` : `${(parameters / 1e6).toFixed(1)} million`;
}

function plural(count: number): string {
  return count === 1 ? '' : 's';
}
