/** Caches whose tensors have four dimensions, [B, K, C, H], and three, [B, C, K * H]. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Tensor } from 'onnxruntime-common';

import { checkManifest } from '../src/bundle/check_manifest.js';
import type { TensorSpec } from '../src/bundle/schema.js';
import { allocateCache, CACHE_HEADROOM, enlargeCache, slotsOf } from '../src/graphs/kv_cache.js';
import type { Ort } from '../src/graphs/ort.js';
import { sampleManifest } from './support/sample_manifest.js';

const ort = { Tensor } as unknown as Ort;
const [HEADS, WIDTH, SLOTS] = [2, 3, 4];
const SHAPES = [['batch', HEADS, 'slots', WIDTH], ['batch', 'slots', HEADS * WIDTH]];

/** Return number `index` of a head in a slot. */
function at({ data, dims }: Tensor, head: number, slot: number, index: number): number {
  const slots = dims.at(-2)!;
  const offset = dims.length === 4 ? (head * slots + slot) * WIDTH : (slot * HEADS + head) * WIDTH;
  return (data as Float32Array)[offset + index]!;
}

test('a cache of either shape is allocated, and enlarged along its slots', async () => {
  for (const shape of SHAPES) {
    const spec = (name: string): TensorSpec => ({ name, dtype: 'float32', shape });
    const specs = ['input_ids', 'past_key_values.0.key', 'past_key_values.0.value'].map(spec);
    const values = allocateCache(ort, specs, SLOTS);
    assert.equal(values.length, 2);
    assert.equal(slotsOf(values), SLOTS);
    const before = values.map(({ data, dims }) => {
      (data as Float32Array).forEach((_, index, levels) => (levels[index] = index + 1));
      return new Tensor('float32', Float32Array.from(data as Float32Array), dims);
    });
    const after = await enlargeCache(ort, values);
    assert.equal(slotsOf(after), SLOTS + CACHE_HEADROOM);
    for (const [number, value] of after.entries()) {
      assert.equal(value.dims.length, shape.length);
      for (let head = 0; head < HEADS; head++)
        for (let slot = 0; slot < SLOTS + CACHE_HEADROOM; slot++)
          for (let index = 0; index < WIDTH; index++)
            assert.equal(at(value, head, slot, index), slot < SLOTS ? at(before[number]!, head, slot, index) : 0);
    }
  }
});

test('a manifest may declare either shape, with the sizes of its cache', () => {
  for (const shape of [['batch', 1, 'slots', 2], ['batch', 'slots', 2]])
    checkManifest(sampleManifest('in_place', 'int8', shape));
  for (const shape of [['batch', 2, 'slots', 2], ['batch', 'slots', 4], ['batch', 'slots'], ['slots', 1, 'batch', 2, 1]])
    assert.throws(() => checkManifest(sampleManifest('in_place', 'int8', shape)), /the shape of .* does not follow/);
});
