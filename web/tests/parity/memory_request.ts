/** The part of memory.ts that runs in Node and in a page. */

import type { PaliGemma } from '../../src/index.js';

/** A request with an image of one colour. */
export interface MemoryRequest {
  readonly prompt: string;
  /** Number of tokens to generate; stop ids are excluded. */
  readonly tokens: number;
}

/** What was reached. A stage that was not reached is missing. */
export interface Stages {
  readonly loadS?: number;
  /** Seconds from the call to the first token. */
  readonly firstTokenS?: number;
  readonly tokensPerSecond?: number;
  /** Size of WebAssembly's memory, which never shrinks. */
  readonly wasmBytes?: number;
  /** Why the next stage failed. */
  readonly problem?: string;
}

const GREY = { data: Uint8Array.of(128), width: 1, height: 1 };

/** Load a model and answer once. An error ends the stages, and is their last part. */
export async function answerOnce(
  load: () => Promise<PaliGemma>,
  { prompt, tokens }: MemoryRequest,
  wasmBytes: () => number,
): Promise<Stages> {
  let stages: Stages = {};
  try {
    const model = await load();
    stages = { loadS: model.loadS };
    const suppressTokens = model.manifest.tokens.stop;
    const { timings } = await model.generate(GREY, prompt, { maxNewTokens: tokens, suppressTokens });
    stages = { ...stages, firstTokenS: timings.timeToFirstTokenS, tokensPerSecond: timings.tokensPerSecond };
  } catch (error) {
    stages = { ...stages, problem: error instanceof Error ? error.message : String(error) };
  }
  return { ...stages, wasmBytes: wasmBytes() };
}

/** Return a function that returns the size of the memories that WebAssembly allocates from now on, in bytes. */
export function recordWasmMemory(): () => number {
  const memories: WebAssembly.Memory[] = [];
  WebAssembly.Memory = class extends WebAssembly.Memory {
    constructor(descriptor: WebAssembly.MemoryDescriptor) {
      super(descriptor);
      memories.push(this);
    }
  };
  return () => memories.reduce((sum, { buffer }) => sum + buffer.byteLength, 0);
}
