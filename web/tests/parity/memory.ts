/** Load a large bundle and answer a prompt once, and measure memory, for benchmarks/web_memory.py. */

import { readFileSync } from 'node:fs';
import path from 'node:path';

import type { Page } from 'playwright-core';

import type { Ort } from '../../src/graphs/ort.js';
import { PaliGemma } from '../../src/index.js';
import { folderFiles } from '../../src/node.js';
import { openPage } from '../support/chromium.js';
import { answerJob } from './job.js';
import { answerOnce, type MemoryRequest, recordWasmMemory, type Stages } from './memory_request.js';

interface Job {
  bundle: string;
  runtime: 'onnxruntime-node' | 'onnxruntime-web' | 'chromium' | 'webgpu';
  threads: number;
  request: MemoryRequest;
}

/** What happened until the answer was complete, or until something failed. */
interface Result extends Stages {
  /** Largest resident memory of the process that runs the model, in bytes. */
  residentBytes: number;
  /** The same of the browser's process that computes on the GPU. SwiftShader has its buffers there. */
  gpuProcessBytes?: number;
}

/** Milliseconds between two looks at the memory of a browser's process, which may end. */
const LOOK_MS = 200;

declare const test: typeof import('./memory_page.js');

await answerJob<Job>((job) => (job.runtime.startsWith('onnxruntime') ? inNode(job) : inChromium(job)));

async function inNode({ bundle, runtime, threads, request }: Job): Promise<Result> {
  const wasmBytes = recordWasmMemory();
  const ort: Ort = await (runtime === 'onnxruntime-node' ? import('onnxruntime-node') : import('onnxruntime-web'));
  const stages = await answerOnce(() => PaliGemma.load(folderFiles(bundle), { ort, threads }), request, wasmBytes);
  return { ...stages, residentBytes: process.resourceUsage().maxRSS * 1024 };
}

async function inChromium({ bundle, runtime, threads, request }: Job): Promise<Result> {
  const { page, close } = await openPage(path.join(import.meta.dirname, 'memory_page.js'), { bundle });
  const [renderers, gpu] = [await processes(page, 'renderer'), await processes(page, 'GPU')];
  let peaks = { residentBytes: 0, gpuProcessBytes: 0 };
  const look = (): void => {
    const { residentBytes, gpuProcessBytes } = peaks;
    peaks = {
      residentBytes: Math.max(residentBytes, ...renderers.map(peakResident)),
      gpuProcessBytes: Math.max(gpuProcessBytes, ...gpu.map(peakResident)),
    };
  };
  const timer = setInterval(look, LOOK_MS);
  try {
    const device = runtime === 'webgpu' ? 'webgpu' : 'cpu';
    const stages = await page.evaluate((given) => test.measure(...given), [device, threads, request] as const);
    look();
    return { ...stages, ...peaks };
  } catch (error) {
    return { problem: String(error), ...peaks }; // for example, the process of the page ended
  } finally {
    clearInterval(timer);
    await close();
  }
}

/** Return the ids of the browser's processes of a type. */
async function processes(page: Page, wanted: 'renderer' | 'GPU'): Promise<number[]> {
  const session = await page.context().browser()!.newBrowserCDPSession();
  const { processInfo } = await session.send('SystemInfo.getProcessInfo');
  return processInfo.filter(({ type }) => type === wanted).map(({ id }) => id);
}

/** Return the largest resident memory of a process in bytes, or 0 if it has ended (proc(5), VmHWM). */
function peakResident(id: number): number {
  try {
    return 1024 * Number(/^VmHWM:\s+([0-9]+) kB$/m.exec(readFileSync(`/proc/${id}/status`, 'utf8'))?.[1] ?? 0);
  } catch {
    return 0;
  }
}
