/**
 * Interface between the decode loop and a model: one method for each graph of the model.
 *
 * Shapes: docs/notation.md. The driver runs one sequence at a time, so B is 1.
 */

import type { Manifest } from '../bundle/schema.js';
import type { Cache } from './kv_cache.js';

/** Logits of the last token, float32[V], which later calls do not overwrite, and the cache. */
export interface Step {
  readonly logits: Float32Array;
  readonly cache: Cache;
}

/** The graphs of one model as methods. Calls may overlap; the graphs run one after another. */
export interface ModelRunner {
  readonly manifest: Manifest;

  /** Return the features of an image: float32[3, S, S] -> float32[I, D]. */
  encodeImage(pixelValues: Float32Array): Promise<Float32Array>;

  /**
   * Run a prompt through the model.
   *
   * @param inputIds T ids.
   * @param imageFeatures float32[N, D].
   * @param slots the largest number of cache slots that the answer will use; at least N + T.
   */
  prefill(inputIds: readonly number[], imageFeatures: Float32Array, slots: number): Promise<Step>;

  /** Run a decode step, which adds a token. `cache` comes from the previous call, and must not be used again. */
  decode(tokenId: number, cache: Cache): Promise<Step>;

  /** Free the memory of a cache that is not used again. */
  release(cache: Cache): void;

  /** Decode masks: 16 codes each -> float32[side, side] each, positive inside the mask. */
  decodeMasks(codes: readonly (readonly number[])[]): Promise<Float32Array[]>;

  /** Close the sessions and free their memory. */
  close(): Promise<void>;
}
