/**
 * Run the graphs of a bundle with onnxruntime.
 *
 * A cache that grows goes from the outputs of a step to the inputs of the next. If the cache is updated in place,
 * inputs and outputs are the same tensors where onnxruntime writes into given tensors: in onnxruntime-node, and on
 * a GPU. WebAssembly has its own memory and copies all tensors in and out, so there the outputs become inputs.
 *
 * Shapes: docs/notation.md.
 */

import type { GraphName, GraphSpec, Manifest } from '../bundle/schema.js';
import { BundleError, NumericsError } from '../errors.js';
import { CACHE_HEADROOM, type Cache, allocateCache, cacheNames, enlargeCache, slotsOf } from './kv_cache.js';
import type { ModelRunner, Step } from './model_runner.js';
import { type Ort, type OrtTensor, type Session, floatTensor, intTensor, isNative, ortError } from './ort.js';

export const NO_MASK_DECODER = 'the bundle has no mask decoder; export the checkpoint with --mask-decoder';

/** Errors only: WebAssembly warns in each step that it copies the cache. */
const RUN_OPTIONS = { logSeverityLevel: 3 } as const;

type Tensors = Record<string, OrtTensor>;

/** The open sessions of one bundle. */
export class OnnxRunner implements ModelRunner {
  readonly manifest: Manifest;
  readonly #ort: Ort;
  readonly #sessions: ReadonlyMap<GraphName, Session>;
  readonly #inPlace: boolean;
  readonly #past: readonly string[];
  readonly #present: readonly string[];
  /** The last run: a session refuses a second run at the same time. */
  #running: Promise<unknown> = Promise.resolve();

  constructor(ort: Ort, manifest: Manifest, sessions: ReadonlyMap<GraphName, Session>) {
    this.manifest = manifest;
    this.#ort = ort;
    this.#sessions = sessions;
    this.#inPlace = manifest.cache.update === 'in_place';
    this.#past = cacheNames(manifest.cache, 'past_key_values');
    this.#present = cacheNames(manifest.cache, 'present');
  }

  async encodeImage(pixelValues: Float32Array): Promise<Float32Array> {
    const { image, graphs } = this.manifest;
    const feeds = { pixel_values: floatTensor(this.#ort, pixelValues, [1, 3, image.size, image.size]) };
    const features = (await this.#run('visionEncoder', feeds)).image_features?.data as Float32Array;
    // A prefill that quantises activations to 8 bits turns NaN into ordinary numbers.
    if (!features.every(Number.isFinite)) {
      throw new NumericsError(
        `${graphs.visionEncoder.file}: the image features are NaN or infinite; run \`paligemma-onnx verify\`, or use ` +
          'precision fp32',
      );
    }
    return features;
  }

  async prefill(inputIds: readonly number[], imageFeatures: Float32Array, slots: number): Promise<Step> {
    const width = this.manifest.model.hiddenSize;
    const imageTokens = imageFeatures.length / width;
    const used = imageTokens + inputIds.length;
    const feeds: Tensors = {
      input_ids: intTensor(this.#ort, inputIds, [1, inputIds.length]),
      image_features: floatTensor(this.#ort, imageFeatures, [1, imageTokens, width]),
      text_lengths: intTensor(this.#ort, [inputIds.length], [1]),
    };
    if (!this.#inPlace) return this.#step('prefill', feeds, [], used);
    feeds.past_lengths = intTensor(this.#ort, [0], [1]);
    const { inputs } = this.manifest.graphs.prefill;
    const values = allocateCache(this.#ort, inputs, Math.min(slots, used + CACHE_HEADROOM));
    return this.#step('prefill', feeds, values, used);
  }

  async decode(tokenId: number, cache: Cache): Promise<Step> {
    const feeds: Tensors = {
      input_ids: intTensor(this.#ort, [tokenId], [1, 1]),
      past_lengths: intTensor(this.#ort, [cache.length], [1]),
    };
    let values = cache.values;
    if (this.#inPlace && cache.length >= slotsOf(values)) values = await enlargeCache(this.#ort, values);
    const wideBatch = this.manifest.precision.wideBatch;
    const name = wideBatch !== null && wideBatch <= 1 ? 'prefill' : 'decode';
    if (this.manifest.graphs[name].inputs.some((spec) => spec.name === 'image_features')) {
      feeds.image_features = floatTensor(this.#ort, new Float32Array(), [1, 0, this.manifest.model.hiddenSize]);
      feeds.text_lengths = intTensor(this.#ort, [1], [1]);
    }
    return this.#step(name, feeds, values, cache.length + 1);
  }

  release(cache: Cache): void {
    for (const value of cache.values) value.dispose();
  }

  async decodeMasks(codes: readonly (readonly number[])[]): Promise<Float32Array[]> {
    if (!this.#sessions.has('maskDecoder')) throw new BundleError(NO_MASK_DECODER);
    const feeds = { codes: intTensor(this.#ort, codes.flat(), [codes.length, codes[0]?.length ?? 0]) };
    const levels = (await this.#run('maskDecoder', feeds)).masks?.data as Float32Array;
    if (!levels.every(Number.isFinite))
      throw new NumericsError(
        'the mask decoder computed NaN or infinity; `paligemma-onnx export --strict` checks whether its weights ' +
          'contain them',
      );
    const size = levels.length / codes.length;
    return codes.map((_, index) => levels.slice(index * size, (index + 1) * size));
  }

  async close(): Promise<void> {
    await this.#running.catch(() => undefined);
    await Promise.all([...new Set(this.#sessions.values())].map((session) => session.release()));
  }

  /** Run a decoder graph with the tensors of the cache; return logits, and the cache with `length` used slots. */
  async #step(
    name: 'prefill' | 'decode',
    feeds: Tensors,
    past: readonly OrtTensor[],
    length: number,
  ): Promise<Step> {
    this.#past.forEach((input, index) => {
      const value = past[index];
      if (value !== undefined) feeds[input] = value;
    });
    const isBound = this.#inPlace && (isNative(this.#ort) || past[0]?.location === 'gpu-buffer');
    const fetches: Record<string, OrtTensor | null> = { logits: null };
    this.#present.forEach((output, index) => {
      fetches[output] = (isBound && past[index]) || null;
    });
    const outputs = await this.#run(name, feeds, fetches);
    const logits = outputs.logits?.data as Float32Array;
    if (isBound) return { logits, cache: { values: past, length } };
    this.release({ values: past, length });
    return { logits, cache: { values: this.#present.map((output) => outputs[output] as OrtTensor), length } };
  }

  async #run(name: GraphName, feeds: Tensors, fetches?: Record<string, OrtTensor | null>): Promise<Tensors> {
    const session = this.#sessions.get(name) as Session;
    const graph = this.manifest.graphs[name] as GraphSpec;
    const previous = this.#running.catch(() => undefined);
    const run = previous.then(() =>
      fetches === undefined ? session.run(feeds, RUN_OPTIONS) : session.run(feeds, fetches, RUN_OPTIONS),
    );
    this.#running = run;
    try {
      return (await run) as Tensors;
    } catch (error) {
      throw ortError(graph.file, 'run the graph', error, 'load the page again, or use another device');
    }
  }
}
