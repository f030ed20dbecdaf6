/** The part of page_answers.ts that runs in the page. */

import type { Ort } from '../../src/graphs/ort.js';
import { PaliGemma } from '../../src/index.js';
import { type ParityRequest, answerRequests } from './answer_requests.js';

/** Load the bundle of the server and answer requests. */
export async function answer(device: 'cpu' | 'webgpu', requests: readonly ParityRequest[]): Promise<string> {
  const ort: Ort = await (device === 'cpu' ? import('onnxruntime-web/wasm') : import('onnxruntime-web/webgpu'));
  ort.env.wasm.wasmPaths = '/ort/';
  const model = await PaliGemma.load('/bundle', { ort, device, threads: 1 });
  const answers = await answerRequests(model, requests, async (file) => {
    const response = await fetch(`/images/${encodeURIComponent(file)}`);
    return new Uint8Array(await response.arrayBuffer());
  });
  return JSON.stringify(answers);
}
