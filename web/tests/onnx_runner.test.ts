import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Tensor } from 'onnxruntime-common';

import type { GraphName, Manifest } from '../src/bundle/schema.js';
import { OnnxRunner } from '../src/graphs/onnx_runner.js';
import type { Ort, Session } from '../src/graphs/ort.js';
import { sampleManifest, VOCAB_SIZE } from './support/sample_manifest.js';

type Tensors = Record<string, Tensor | null>;

/** One run of a graph. */
interface Run {
  readonly name: string;
  readonly feeds: Tensors;
  readonly fetches: Tensors;
  readonly outputs: Tensors;
}

/** Sessions that record their runs, and refuse a run while another one is in progress. */
function fakeSessions(kind: 'native' | 'wasm' | 'webgpu'): { ort: Ort; sessions: Map<GraphName, Session>; runs: Run[] } {
  const runs: Run[] = [];
  let isRunning = false;
  const present = (feeds: Tensors): Tensor => {
    const past = feeds['past_key_values.0.key'];
    const tokens = feeds.input_ids!.dims[1]! + (feeds.image_features?.dims[1] ?? 0);
    const slots = feeds.past_lengths && past && past.dims[2]! > 100 ? past.dims[2]! : (past?.dims[2] ?? 0) + tokens;
    const data = new Float32Array(2 * slots).fill(1);
    if (kind !== 'webgpu') return new Tensor('float32', data, [1, 1, slots, 2]);
    const download = async (): Promise<Float32Array> => data;
    return Tensor.fromGpuBuffer({} as never, { dataType: 'float32', dims: [1, 1, slots, 2], download, dispose() {} });
  };
  const session = (name: string): Session =>
    ({
      async run(feeds: Tensors, fetches: Tensors) {
        assert.equal(isRunning, false, 'two runs at the same time');
        isRunning = true;
        await new Promise(setImmediate);
        isRunning = false;
        const logits = new Tensor('float32', new Float32Array(VOCAB_SIZE), [1, VOCAB_SIZE]);
        const outputs: Tensors = { logits };
        for (const output of ['present.0.key', 'present.0.value']) outputs[output] = fetches[output] ?? present(feeds);
        runs.push({ name, feeds, fetches, outputs });
        return outputs;
      },
    }) as unknown as Session;
  const versions = kind === 'native' ? { common: '', node: '1' } : { common: '', web: '1' };
  const ort = { Tensor, env: { versions } } as unknown as Ort;
  return { ort, sessions: new Map([['prefill', session('prefill')], ['decode', session('decode')]]), runs };
}

const FEATURES = new Float32Array(6); // two image tokens of width 3
const PROMPT = [2, 4, 5];
const caches = (run: Run, prefix: string): (Tensor | null | undefined)[] =>
  ['key', 'value'].map((kind) => ({ ...run.feeds, ...run.fetches })[`${prefix}.0.${kind}`]);

async function twoSteps(kind: 'native' | 'wasm' | 'webgpu', update: Manifest['cache']['update']): Promise<Run[]> {
  const { ort, sessions, runs } = fakeSessions(kind);
  const runner = new OnnxRunner(ort, sampleManifest(update), sessions);
  let { cache } = await runner.prefill(PROMPT, FEATURES, 300);
  assert.equal(cache.length, 5);
  for (const id of [6, 7]) ({ cache } = await runner.decode(id, cache));
  assert.equal(cache.length, 7);
  assert.deepEqual(runs.map((run) => run.name), ['prefill', 'decode', 'decode']);
  return runs;
}

test('growing cache: the outputs of a run are the inputs of the next one, and are then freed', async () => {
  for (const kind of ['native', 'wasm', 'webgpu'] as const) {
    const runs = await twoSteps(kind, 'grow');
    for (const [index, run] of runs.slice(1).entries()) {
      const before = runs[index]!.outputs;
      assert.deepEqual(caches(run, 'past_key_values'), [before['present.0.key'], before['present.0.value']]);
      assert.deepEqual(caches(run, 'present'), [null, null]); // onnxruntime allocates
      assert.equal(before['present.0.key']!.location, 'none'); // freed
    }
    assert.deepEqual(runs[2]!.feeds.past_lengths!.data, BigInt64Array.of(6n));
    assert.deepEqual(runs[2]!.feeds['past_key_values.0.key']!.dims, [1, 1, 6, 2]);
  }
});

test('in-place cache in onnxruntime-node: all runs read and write the same tensors', async () => {
  const runs = await twoSteps('native', 'in_place');
  const values = caches(runs[0]!, 'past_key_values');
  assert.deepEqual(values[0]!.dims, [1, 1, 5 + 128, 2]);
  for (const run of runs) {
    for (const [index, value] of values.entries()) {
      assert.equal(caches(run, 'past_key_values')[index], value);
      assert.equal(caches(run, 'present')[index], value);
    }
  }
});

test('in-place cache on WebGPU: decode steps read and write the buffers of prefill', async () => {
  const [prefill, ...steps] = await twoSteps('webgpu', 'in_place');
  assert.deepEqual(caches(prefill!, 'present'), [null, null]);
  const values = [prefill!.outputs['present.0.key'], prefill!.outputs['present.0.value']];
  for (const run of steps) {
    for (const [index, value] of values.entries()) {
      assert.equal(value!.location, 'gpu-buffer');
      assert.equal(caches(run, 'past_key_values')[index], value);
      assert.equal(caches(run, 'present')[index], value);
    }
  }
});

test('in-place cache in WebAssembly: the outputs become inputs, and nothing is bound', async () => {
  const runs = await twoSteps('wasm', 'in_place');
  for (const [index, run] of runs.slice(1).entries()) {
    assert.deepEqual(caches(run, 'present'), [null, null]);
    assert.equal(caches(run, 'past_key_values')[0], runs[index]!.outputs['present.0.key']);
  }
});

test('a full in-place cache moves to a larger one with the same content', async () => {
  const { ort, sessions, runs } = fakeSessions('native');
  const runner = new OnnxRunner(ort, sampleManifest('in_place'), sessions);
  let { cache } = await runner.prefill(PROMPT, FEATURES, 300);
  (cache.values[0]!.data as Float32Array).fill(3);
  cache = (await runner.decode(6, { values: cache.values, length: 133 })).cache;
  assert.deepEqual(cache.values[0]!.dims, [1, 1, 261, 2]);
  const content = cache.values[0]!.data as Float32Array;
  assert.ok(content.subarray(0, 2 * 133).every((value) => value === 3));
  assert.ok(content.subarray(2 * 133).every((value) => value === 0));
  assert.equal(runs.at(-1)!.feeds['past_key_values.0.key'], cache.values[0]);
});

test('requests that overlap run one after another', async () => {
  const { ort, sessions, runs } = fakeSessions('wasm');
  const runner = new OnnxRunner(ort, sampleManifest('grow'), sessions);
  await Promise.all([runner.prefill(PROMPT, FEATURES, 300), runner.prefill(PROMPT, FEATURES, 300)]);
  assert.equal(runs.length, 2);
});

test('an error of onnxruntime names the graph and the remedy, and memory is another class', async () => {
  for (const [thrown, name] of [
    [new Error('bad input\nstack'), 'BundleError'],
    [new Error('std::bad_alloc'), 'ResourceError'],
    [123456, 'ResourceError'],
  ] as const) {
    const { ort, sessions } = fakeSessions('wasm');
    sessions.set('prefill', { run: () => Promise.reject(thrown) } as unknown as Session);
    const runner = new OnnxRunner(ort, sampleManifest('grow'), sessions);
    await assert.rejects(runner.prefill(PROMPT, FEATURES, 300), { name, message: /^prefill\.onnx: [^\n]+; [^\n]+$/ });
    await assert.doesNotReject(runner.decode(5, { values: [], length: 5 })); // later runs start
  }
});
