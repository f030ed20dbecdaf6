/** The part of memory.ts that runs in a page. */

import type { Ort } from '../../src/graphs/ort.js';
import { PaliGemma } from '../../src/index.js';
import { answerOnce, type MemoryRequest, recordWasmMemory, type Stages } from './memory_request.js';

/** Load the bundle of the server and answer once. */
export async function measure(device: 'cpu' | 'webgpu', threads: number, request: MemoryRequest): Promise<Stages> {
  const wasmBytes = recordWasmMemory();
  const ort: Ort = await (device === 'cpu' ? import('onnxruntime-web/wasm') : import('onnxruntime-web/webgpu'));
  ort.env.wasm.wasmPaths = '/ort/';
  return answerOnce(() => PaliGemma.load('/bundle', { ort, device, threads }), request, wasmBytes);
}
