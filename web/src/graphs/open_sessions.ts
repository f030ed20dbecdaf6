/** Open the graphs of a bundle with onnxruntime, and check their files while they load. */

import type { InferenceSession } from 'onnxruntime-common';

import type { BundleFiles } from '../bundle/files.js';
import { type GraphName, type GraphSpec, type Manifest, graphsByName } from '../bundle/schema.js';
import { type WeightFiles, expectedFile } from '../bundle/tensor_table.js';
import { cacheNames } from './kv_cache.js';
import { type Ort, type Session, isNative, ortError } from './ort.js';

/** Device that the graphs run on. */
export type Device = 'cpu' | 'webgpu';

/** Called as the bytes of a file arrive; `bytes` of the file were read so far. */
export type OnFileBytes = (file: string, bytes: number) => void;

export interface OpenOptions {
  readonly ort: Ort;
  readonly device: Device;
  /** Threads per operator; undefined: onnxruntime's default. */
  readonly threads?: number | undefined;
  readonly onBytes: OnFileBytes;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Return a session for each graph, by name. Graphs of equal content share a session.
 *
 * @throws {BundleError} A file is missing, cut or altered, or onnxruntime does not open a graph.
 * @throws {ResourceError} Out of memory.
 */
export async function openSessions(
  files: BundleFiles,
  manifest: Manifest,
  weights: WeightFiles,
  options: OpenOptions,
): Promise<ReadonlyMap<GraphName, Session>> {
  const named = graphsByName(manifest);
  const distinct = new Map([...named].reverse().map(([name, graph]) => [graph.digest, name])); // the first name stays
  const names = [...named.keys()].filter((name) => [...distinct.values()].includes(name));
  const open = isNative(options.ort) && files.path !== undefined ? byPath : byContent;
  const opened = new Map<GraphName, Session>();
  try {
    await open(files, manifest, names, weights, options, opened);
  } catch (error) {
    await Promise.all([...opened.values()].map((session) => session.release()));
    throw error;
  }
  return new Map([...named].map(([name, { digest }]) => [name, opened.get(distinct.get(digest)!)!]));
}

/** Let onnxruntime open the files by their paths. It maps the weights, which may be larger than a buffer. */
async function byPath(
  files: BundleFiles,
  manifest: Manifest,
  names: readonly GraphName[],
  weights: WeightFiles,
  options: OpenOptions,
  opened: Map<GraphName, Session>,
): Promise<void> {
  const path = files.path as NonNullable<BundleFiles['path']>;
  const check = (name: string): Promise<string> =>
    path(name, expectedFile(manifest, name), (bytes) => options.onBytes(name, bytes), options.signal);
  for (const name of new Set(names.flatMap(weights))) await check(name);
  for (const name of names) {
    const graph = manifest.graphs[name] as GraphSpec;
    opened.set(name, await create(await check(graph.file), [], name, graph, manifest, options));
  }
}

/** Read the files into memory. Weights that two graphs share are read once, and freed after the second. */
async function byContent(
  files: BundleFiles,
  manifest: Manifest,
  names: readonly GraphName[],
  weights: WeightFiles,
  options: OpenOptions,
  opened: Map<GraphName, Session>,
): Promise<void> {
  const read = (name: string): Promise<Uint8Array<ArrayBuffer>> =>
    files.read(name, expectedFile(manifest, name), (bytes) => options.onBytes(name, bytes), options.signal);
  const held = new Map<string, Uint8Array<ArrayBuffer>>();
  for (const [index, name] of names.entries()) {
    const graph = manifest.graphs[name] as GraphSpec;
    const content = await read(graph.file);
    for (const file of weights(name)) held.set(file, held.get(file) ?? (await read(file)));
    const external = weights(name).map((file) => ({ path: file, data: held.get(file) as Uint8Array }));
    opened.set(name, await create(content, external, name, graph, manifest, options));
    const later = new Set(names.slice(index + 1).flatMap(weights));
    for (const [file, bytes] of held) {
      if (later.has(file)) continue;
      held.delete(file);
      free(bytes);
    }
  }
}

/** Free the memory of a buffer at once; garbage collection may be late. Older browsers cannot. */
function free({ buffer }: Uint8Array<ArrayBuffer>): void {
  (buffer as ArrayBuffer & { transfer?: (bytes: number) => ArrayBuffer }).transfer?.(0); // ES2024
}

async function create(
  model: string | Uint8Array,
  externalData: readonly { path: string; data: Uint8Array }[],
  name: GraphName,
  graph: GraphSpec,
  manifest: Manifest,
  { ort, device, threads }: OpenOptions,
): Promise<Session> {
  const cpu = isNative(ort) ? 'cpu' : 'wasm';
  const present = name === 'prefill' || name === 'decode' ? cacheNames(manifest.cache, 'present') : [];
  const sessionOptions: InferenceSession.SessionOptions = {
    executionProviders: [device === 'cpu' ? cpu : device],
    logSeverityLevel: 3, // errors
    ...(externalData.length > 0 && { externalData }),
    ...(threads !== undefined && { intraOpNumThreads: threads }),
    // The cache stays on the GPU from step to step.
    ...(device === 'webgpu' && {
      preferredOutputLocation: Object.fromEntries(present.map((output) => [output, 'gpu-buffer' as const])),
    }),
  };
  try {
    return typeof model === 'string'
      ? await ort.InferenceSession.create(model, sessionOptions)
      : await ort.InferenceSession.create(model, sessionOptions);
  } catch (error) {
    const advice = /GatherBlockQuantized/.test(String(error))
      ? 'import onnxruntime-web/wasm for the device cpu'
      : 'use onnxruntime 1.30 or newer, or another precision';
    throw ortError(graph.file, 'open the graph', error, advice);
  }
}
