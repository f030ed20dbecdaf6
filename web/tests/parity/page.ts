/** The part of page_answers.ts that runs in the page. */

import * as wasm from 'onnxruntime-web/wasm';

import { PaliGemma } from '../../src/index.js';
import { type ParityRequest, answerRequests } from './answer_requests.js';

/** Load the bundle of the server and answer requests. */
export async function answer(requests: readonly ParityRequest[]): Promise<string> {
  wasm.env.wasm.wasmPaths = '/ort/';
  const model = await PaliGemma.load('/bundle', { ort: wasm, threads: 1 });
  const answers = await answerRequests(model, requests, async (file) => {
    const response = await fetch(`/images/${encodeURIComponent(file)}`);
    return new Uint8Array(await response.arrayBuffer());
  });
  return JSON.stringify(answers);
}
