/** The worker of the page: it loads one model and answers, so that the page stays responsive. */

import { readManifest } from '../src/bundle/manifest.js';
import { detections } from '../src/detection/detections.js';
import { boxPixels } from '../src/detection/parsing.js';
import type { Generation, Options } from '../src/generation/types.js';
import type { Ort } from '../src/graphs/ort.js';
import {
  type BundleFiles,
  type Detections,
  localFiles,
  type Mask,
  objectsAsJson,
  PaliGemma,
  urlFiles,
} from '../src/index.js';
import type { Answer, DrawnMask, DrawnObject, FromWorker, LoadedModel, LoadMessage, ToWorker } from './messages.js';
import { removeNamed, storingFetch } from './storage.js';

type AskMessage = Extract<ToWorker, { kind: 'ask' }>;

/** The part of a worker's global scope that is used here; TypeScript's `lib.dom` describes pages. */
interface Scope {
  onmessage: (event: MessageEvent<ToWorker>) => void;
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
}

const scope = globalThis as unknown as Scope;
/** An image for a trial. */
const WHITE = { data: Uint8Array.of(255), width: 1, height: 1 };

let model: PaliGemma | null = null;
let running = new AbortController();

scope.onmessage = ({ data }) => {
  running.abort(); // the page sends no request while another one runs, unless it is to be stopped
  if (data.kind === 'cancel') return;
  running = new AbortController();
  const { signal } = running;
  const run = data.kind === 'load' ? load(data) : ask(data, signal);
  run.catch(async (error: unknown) => {
    const message = error instanceof Error ? error.message : String(error);
    if (data.kind === 'load') await removeNamed(message).catch(console.warn);
    scope.postMessage({ kind: 'failed', during: data.kind, message: signal.aborted ? '' : message });
  });
};

async function load(message: LoadMessage): Promise<void> {
  const { source, device } = message;
  const files = typeof source === 'string' ? urlFiles(source, storingFetch()) : localFiles(source);
  if (device !== 'auto') return open(files, device, message);
  const chosen = await chooseDevice(files);
  if (chosen === 'cpu') return open(files, chosen, message);
  try {
    await open(files, chosen, message);
  } catch (error) {
    // The page starts another worker, so the memory of this one is freed.
    scope.postMessage({ kind: 'gpuFailed', message: error instanceof Error ? error.message : String(error) });
  }
}

async function open(files: BundleFiles, chosen: 'cpu' | 'webgpu', message: LoadMessage): Promise<void> {
  const { device, threads, gpuProblem } = message;
  const ort = await importOrt(chosen === 'webgpu' ? 'ort.webgpu.min.mjs' : 'ort.wasm.min.mjs');
  const loaded = await PaliGemma.load(files, {
    ort,
    device: chosen,
    ...(threads !== null && { threads }),
    onProgress: (progress) => scope.postMessage({ kind: 'progress', progress }),
  });
  // A GPU may lack memory or compute NaN, which only a run shows.
  if (device === 'auto' && chosen === 'webgpu') await loaded.generate(WHITE, '', { maxNewTokens: 2 });
  model = loaded;
  const { manifest, loadS } = loaded;
  const facts: LoadedModel = {
    family: manifest.model.family === 'paligemma2' ? 'PaliGemma 2' : 'PaliGemma',
    parameters: manifest.model.parameters,
    precision: manifest.precision.name,
    device: chosen,
    threads: ort.env.wasm.numThreads ?? 1,
    loadS,
    masks: manifest.graphs.maskDecoder !== undefined,
    gpuProblem,
  };
  scope.postMessage({ kind: 'loaded', model: facts });
}

/** Return `webgpu` if the browser has a GPU and the bundle's graphs run on it without copies of the cache. */
async function chooseDevice(files: BundleFiles): Promise<'cpu' | 'webgpu'> {
  const { gpu } = navigator as unknown as { gpu?: { requestAdapter(): Promise<Adapter | null> } };
  const adapter = (await gpu?.requestAdapter()) ?? null;
  if (adapter === null || adapter.info?.isFallbackAdapter === true) return 'cpu';
  return (await readManifest(files)).cache.update === 'grow' ? 'webgpu' : 'cpu';
}

interface Adapter {
  /** A fallback adapter computes on the CPU. */
  readonly info?: { readonly isFallbackAdapter?: boolean };
}

/** Import a module of onnxruntime-web from the folder `ort` of the site. */
async function importOrt(file: string): Promise<Ort> {
  const url = new URL(`ort/${file}`, globalThis.location.href).href;
  try {
    return (await import(url)) as Ort;
  } catch (error) {
    throw new Error(`${url}: cannot be loaded (${String(error)}); write the site again with \`paligemma-onnx web\``);
  }
}

async function ask({ image, prompt, options }: AskMessage, signal: AbortSignal): Promise<void> {
  if (model === null) throw new Error('no model is loaded');
  const task = /^(detect|segment) /.exec(prompt)?.[1];
  const picture = await model.open(image);
  const settings: Options = { ...options, signal, logprobs: task !== undefined }; // scores need probabilities
  const stream = await model.stream(picture, prompt, settings);
  for await (const piece of stream) scope.postMessage({ kind: 'piece', piece });
  const generation = stream.result;
  const masks = task === 'segment' && model.manifest.graphs.maskDecoder !== undefined;
  const { runner, tokenizer } = model;
  const found =
    task === undefined
      ? null
      : await detections(generation, picture.width, picture.height, runner, tokenizer, masks);
  const answer = answerOf(generation, found);
  const masked = answer.objects?.flatMap(({ mask }) => (mask === null ? [] : [mask.data.buffer])) ?? [];
  scope.postMessage({ kind: 'answer', answer }, masked);
}

function answerOf(generation: Generation, found: Detections | null): Answer {
  const drawn = found?.objects.map(
    ({ label, score, pixels, mask }): DrawnObject => ({ label, score, box: pixels, mask: mask && croppedMask(mask) }),
  );
  const { text, finishReason, timings, tokenIds, logprobs: _, locationProbs: __, ...rest } = generation;
  const facts = { text, finishReason, tokenIds, timings, ...rest };
  const objects = found === null ? {} : { objects: objectsAsJson(found), width: found.width, height: found.height };
  return {
    text,
    finishReason,
    timings,
    tokens: tokenIds.length,
    warnings: found?.warnings ?? generation.warnings,
    objects: drawn ?? null,
    json: asJson({ ...objects, ...facts }),
  };
}

/** Return the part of a mask that lies in its box; whole masks of many objects would take much memory. */
function croppedMask(mask: Mask): DrawnMask {
  const { array, width: imageWidth, height: imageHeight } = mask;
  const edges = boxPixels(mask.box, imageWidth, imageHeight);
  const [left, top] = [Math.floor(edges[0]), Math.floor(edges[1])];
  const width = Math.min(imageWidth, Math.ceil(edges[2])) - left;
  const height = Math.min(imageHeight, Math.ceil(edges[3])) - top;
  const data = new Uint8Array(width * height);
  for (let row = 0; row < height; row++) {
    const start = (top + row) * imageWidth + left;
    data.set(array.subarray(start, start + width), row * width);
  }
  return { left, top, width, height, data };
}

/** Return JSON with names in snake case, as Python writes them, and with all digits of the seed. */
function asJson(value: object): string {
  const named = (_: string, item: unknown): unknown => {
    if (typeof item === 'bigint') return String(item);
    if (item === null || typeof item !== 'object' || Array.isArray(item)) return item;
    return Object.fromEntries(Object.entries(item).map(([name, each]) => [snakeCase(name), each]));
  };
  return JSON.stringify(value, named, 2).replace(/"seed": "([0-9]+)"/, '"seed": $1'); // no text has bare quotes
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
