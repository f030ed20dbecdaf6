/** The part of speed.ts that runs in the page of this driver. */

import * as ort from 'onnxruntime-web/wasm';

import { PaliGemma } from '../../src/index.js';
import type { Ort } from '../../src/graphs/ort.js';

/** A request that is timed. */
export interface SpeedRequest {
  /** URL of an image file. */
  readonly image: string;
  readonly prompt: string;
  /** Number of tokens to generate; stop ids are excluded. */
  readonly tokens: number;
}

/** Durations of a request, and its ids. */
export interface Timed {
  /** Seconds from the call, with the bytes of the image file, to the first token. */
  readonly firstTokenS: number;
  /** Seconds from the call to the last token. */
  readonly totalS: number;
  readonly ids: number[];
}

let model: PaliGemma;

/** Load the bundle of the server; return the seconds. */
export async function load(threads: number): Promise<number> {
  const started = performance.now();
  (ort as Ort).env.wasm.wasmPaths = '/ort/';
  model = await PaliGemma.load('/model', { ort, threads });
  return (performance.now() - started) / 1000;
}

export async function ask({ image, prompt, tokens }: SpeedRequest): Promise<Timed> {
  const file = await (await fetch(image)).blob();
  const suppressTokens = model.manifest.tokens.stop;
  const started = performance.now();
  const stream = await model.stream(file, prompt, { maxNewTokens: tokens, suppressTokens });
  const opened = performance.now();
  for await (const _ of stream);
  const totalS = (performance.now() - started) / 1000;
  const { timings, tokenIds } = stream.result;
  return { firstTokenS: (opened - started) / 1000 + timings.timeToFirstTokenS, totalS, ids: [...tokenIds] };
}

/** Return the version of onnxruntime-web. */
export function version(): string {
  return (ort as Ort).env.versions.web ?? '';
}
