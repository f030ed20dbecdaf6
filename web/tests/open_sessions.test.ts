import assert from 'node:assert/strict';
import { test } from 'node:test';

import type { BundleFiles } from '../src/bundle/files.js';
import type { Manifest } from '../src/bundle/schema.js';
import { openSessions } from '../src/graphs/open_sessions.js';
import type { Ort } from '../src/graphs/ort.js';
import { loadBundle } from '../src/load.js';
import { sampleManifest } from './support/sample_manifest.js';

const WEIGHTS: Record<string, string[]> = {
  visionEncoder: ['vision_encoder.data'],
  prefill: ['decoder.data', 'decoder-2.data'],
  decode: ['decoder.data'],
};
const NAMES = ['vision_encoder', 'prefill', 'decode'].flatMap((name) => [`${name}.onnx`]);
const manifest: Manifest = {
  ...sampleManifest('grow'),
  files: new Map([...NAMES, ...Object.values(WEIGHTS).flat()].map((name) => [name, { bytes: 4, sha256: '' }])),
};

interface Options {
  readonly externalData?: { path: string; data: Uint8Array }[];
  readonly executionProviders: string[];
  readonly preferredOutputLocation?: Record<string, string>;
}

/** A runtime and files that record what is read, created and released, in order. */
function recorder(versions: object, fail?: { file: string; message: string }) {
  const events: string[] = [];
  const created: Options[] = [];
  const create = async (model: string | Uint8Array, options: Options): Promise<unknown> => {
    const name = typeof model === 'string' ? model : new TextDecoder().decode(model);
    if (name === fail?.file) throw new Error(fail.message);
    created.push(options);
    events.push(`create ${name} ${(options.externalData ?? []).map(({ path }) => path).join(' ')}`.trim());
    return { release: async () => events.push(`release ${name}`) };
  };
  const files: BundleFiles = {
    locate: (name) => name,
    readSmall: () => assert.fail('not a small file'),
    async read(name, expected, onBytes) {
      events.push(`read ${name}`);
      onBytes(expected.bytes);
      return new TextEncoder().encode(name);
    },
    async path(name) {
      events.push(`check ${name}`);
      return `/bundle/${name}`;
    },
  };
  const ort = { InferenceSession: { create }, env: { versions, wasm: {} } } as unknown as Ort;
  const open = (device: 'cpu' | 'webgpu' = 'cpu', given = manifest) =>
    openSessions(files, given, (graph) => WEIGHTS[graph] ?? [], { ort, device, onBytes: () => {} });
  return { events, created, open };
}

test('weights that two graphs share are read once', async () => {
  const { events, created, open } = recorder({ web: '1' });
  await open();
  assert.deepEqual(events, [
    'read vision_encoder.onnx',
    'read vision_encoder.data',
    'create vision_encoder.onnx vision_encoder.data',
    'read prefill.onnx',
    'read decoder.data',
    'read decoder-2.data',
    'create prefill.onnx decoder.data decoder-2.data',
    'read decode.onnx',
    'create decode.onnx decoder.data',
  ]);
  assert.equal(created[1]!.externalData![0]!.data, created[2]!.externalData![0]!.data);
  assert.deepEqual(created.map((options) => options.executionProviders), [['wasm'], ['wasm'], ['wasm']]);
});

test('the memory of weights is freed when the last graph has them', async () => {
  const freed: number[] = [];
  const { created, open } = recorder({ web: '1' });
  const transfer = Object.getOwnPropertyDescriptor(ArrayBuffer.prototype, 'transfer'); // not in Node 20
  Object.defineProperty(ArrayBuffer.prototype, 'transfer', { value: () => freed.push(created.length), configurable: true });
  try {
    await open();
  } finally {
    Reflect.deleteProperty(ArrayBuffer.prototype, 'transfer');
    if (transfer !== undefined) Object.defineProperty(ArrayBuffer.prototype, 'transfer', transfer);
  }
  assert.deepEqual(freed, [1, 2, 3]); // vision_encoder.data, decoder-2.data, decoder.data, by the number of open graphs
});

test('onnxruntime-node opens checked files by their paths', async () => {
  const { events, created, open } = recorder({ node: '1' });
  await open();
  assert.deepEqual(events.slice(0, 3), ['check vision_encoder.data', 'check decoder.data', 'check decoder-2.data']);
  assert.ok(events.includes('create /bundle/decode.onnx'));
  assert.ok(created.every((options) => options.externalData === undefined && options.executionProviders[0] === 'cpu'));
});

test('on WebGPU only the cache stays on the device', async () => {
  const { created, open } = recorder({ web: '1' });
  await open('webgpu');
  const cache = { 'present.0.key': 'gpu-buffer', 'present.0.value': 'gpu-buffer' };
  assert.deepEqual(created.map((options) => options.preferredOutputLocation), [{}, cache, cache]);
});

test('graphs of equal content share a session', async () => {
  const { graphs } = manifest;
  const equal = { ...manifest, graphs: { ...graphs, decode: { ...graphs.decode, digest: graphs.prefill.digest } } };
  const { created, open } = recorder({ web: '1' });
  const sessions = await open('cpu', equal);
  assert.equal(created.length, 2);
  assert.equal(sessions.get('decode'), sessions.get('prefill'));
});

test('if a graph does not open, the open ones are closed', async () => {
  const cases = [
    ['no kernel for GatherBlockQuantized(1)', 'BundleError', /^decode\.onnx: .*; import onnxruntime-web\/wasm/],
    ['bad model', 'BundleError', /^decode\.onnx: onnxruntime cannot open the graph \(bad model\); use onnxruntime/],
    ['std::bad_alloc', 'ResourceError', /^decode\.onnx: out of memory/],
  ] as const;
  for (const [message, name, expected] of cases) {
    const { events, open } = recorder({ web: '1' }, { file: 'decode.onnx', message });
    await assert.rejects(open(), { name, message: expected });
    assert.deepEqual(events.slice(-2), ['release vision_encoder.onnx', 'release prefill.onnx']);
  }
});

test('options of load are checked before any file is read', async () => {
  const files = { locate: () => assert.fail('read') } as unknown as BundleFiles;
  const ort = { InferenceSession: {}, env: { versions: {} } } as unknown as Ort;
  const load = (options: object) => loadBundle(files, { ort, ...options } as never);
  await assert.rejects(load({ ort: undefined }), { name: 'OptionError', message: /^ort must be the module/ });
  await assert.rejects(load({ device: 'gpu' }), { name: 'OptionError', message: /expected cpu or webgpu/ });
  await assert.rejects(load({ threads: 0 }), { name: 'OptionError', message: /expected 1 to 256/ });
  await assert.rejects(load({ device: 'webgpu' }), { name: 'ProviderError', message: /WebGPU is not available/ });
});
