/**
 * The KV cache. Its tensors stay where onnxruntime computed them, and go from one run to the next.
 *
 * Shapes: docs/notation.md.
 */

import type { CacheFacts, TensorSpec } from '../bundle/schema.js';
import type { Ort, OrtTensor } from './ort.js';

/**
 * For a cache that is updated in place: the number of free slots after the prompt, and the number of slots that
 * are added when the free slots are used up. Attention reads free slots, too, so a cache does not start with all
 * slots of a request.
 */
export const CACHE_HEADROOM = 128;

/** Keys and values of all tokens that the model has read. */
export interface Cache {
  /**
   * Key of layer 0, value of layer 0, ...: [1, K, P, H], or if the cache is updated in place, [1, K, C, H] or
   * [1, C, K * H]. The axis of slots is the last but one.
   */
  readonly values: readonly OrtTensor[];
  /** Number of used slots. */
  readonly length: number;
}

/** Return the names of the cache's tensors in the graphs: `{prefix}.0.key`, `{prefix}.0.value`, ... */
export function cacheNames(facts: CacheFacts, prefix: 'past_key_values' | 'present'): string[] {
  return Array.from({ length: 2 * facts.layers }, (_, index) => `${prefix}.${index >> 1}.${index % 2 ? 'value' : 'key'}`);
}

/** Return the number of slots, free ones included. */
export function slotsOf(values: readonly OrtTensor[]): number {
  return values[0]?.dims.at(-2) ?? 0;
}

/**
 * Allocate a cache of zeros that is updated in place.
 *
 * @param specs The inputs of a graph; those of the cache state its shape.
 */
export function allocateCache(ort: Ort, specs: readonly TensorSpec[], slots: number): OrtTensor[] {
  const cached = specs.filter(({ name }) => name.startsWith('past_key_values.'));
  return cached.map(({ dtype, shape }) => {
    const [, ...sizes] = shape as readonly number[]; // the first one is B
    return zeros(ort, dtype, withSlots([1, ...sizes], slots));
  });
}

/** Return a copy of a cache that is updated in place, with CACHE_HEADROOM more slots; free the old tensors. */
export async function enlargeCache(ort: Ort, values: readonly OrtTensor[]): Promise<OrtTensor[]> {
  const slots = slotsOf(values);
  const enlarged: OrtTensor[] = [];
  for (const value of values) {
    const old = (await value.getData(true)) as Float32Array; // downloads from a GPU
    const larger = zeros(ort, value.type, withSlots(value.dims, slots + CACHE_HEADROOM));
    const content = larger.data as Float32Array;
    const width = value.dims.at(-1) ?? 0; // of a slot
    for (let start = 0, target = 0; start < old.length; start += slots * width) {
      content.set(old.subarray(start, start + slots * width), target);
      target += (slots + CACHE_HEADROOM) * width;
    }
    enlarged.push(larger);
  }
  return enlarged;
}

/** Return the dimensions of a cache tensor with another number of slots. */
function withSlots(dims: readonly number[], slots: number): number[] {
  return dims.map((size, axis) => (axis === dims.length - 2 ? slots : size));
}

function zeros(ort: Ort, dtype: string, dims: readonly number[]): OrtTensor {
  const size = dims.reduce((product, each) => product * each);
  return dtype === 'float16'
    ? new ort.Tensor('float16', new Uint16Array(size), dims)
    : new ort.Tensor('float32', new Float32Array(size), dims);
}
