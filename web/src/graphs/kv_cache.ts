/**
 * The KV cache. Its tensors stay where onnxruntime computed them, and go from one run to the next.
 *
 * Shapes: docs/notation.md.
 */

import type { CacheFacts } from '../bundle/schema.js';
import type { Ort, OrtTensor } from './ort.js';

/**
 * For a cache that is updated in place: the number of free slots after the prompt, and the number of slots that
 * are added when the free slots are used up. Attention reads free slots, too, so a cache does not start with all
 * slots of a request.
 */
export const CACHE_HEADROOM = 128;

/** Keys and values of all tokens that the model has read. */
export interface Cache {
  /** Key of layer 0, value of layer 0, ...: [1, K, P, H], or [1, K, C, H] if the cache is updated in place. */
  readonly values: readonly OrtTensor[];
  /** Number of used slots. */
  readonly length: number;
}

/** Return the names of the cache's tensors in the graphs: `{prefix}.0.key`, `{prefix}.0.value`, ... */
export function cacheNames(facts: CacheFacts, prefix: 'past_key_values' | 'present'): string[] {
  return Array.from({ length: 2 * facts.layers }, (_, index) => `${prefix}.${index >> 1}.${index % 2 ? 'value' : 'key'}`);
}

/** Allocate a cache of zeros that is updated in place: [1, K, C, H] for each key and value. */
export function allocateCache(ort: Ort, facts: CacheFacts, slots: number): OrtTensor[] {
  return Array.from({ length: 2 * facts.layers }, () => cacheTensor(ort, facts, slots));
}

/** Return a copy of a cache that is updated in place, with CACHE_HEADROOM more slots; free the old tensors. */
export async function enlargeCache(ort: Ort, facts: CacheFacts, values: readonly OrtTensor[]): Promise<OrtTensor[]> {
  const slots = values[0]?.dims[2] ?? 0;
  const enlarged: OrtTensor[] = [];
  for (const value of values) {
    const old = (await value.getData(true)) as Float32Array; // downloads from a GPU
    const larger = cacheTensor(ort, facts, slots + CACHE_HEADROOM);
    const content = larger.data as Float32Array;
    for (let head = 0; head < facts.heads; head++) {
      const rows = old.subarray(head * slots * facts.headDim, (head + 1) * slots * facts.headDim);
      content.set(rows, head * (slots + CACHE_HEADROOM) * facts.headDim);
    }
    enlarged.push(larger);
  }
  return enlarged;
}

function cacheTensor(ort: Ort, facts: CacheFacts, slots: number): OrtTensor {
  const dims = [1, facts.heads, slots, facts.headDim];
  const size = facts.heads * slots * facts.headDim;
  return facts.dtype === 'float16'
    ? new ort.Tensor('float16', new Uint16Array(size), dims)
    : new ort.Tensor('float32', new Float32Array(size), dims);
}
