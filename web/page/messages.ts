/** The messages between the page and its worker, which runs the model. */

import type { PixelBox } from '../src/detection/parsing.js';
import type { FinishReason, Options, Timings } from '../src/generation/types.js';
import type { LoadProgress } from '../src/load.js';

/** A kind of prompt that the page offers. */
export type PromptKind = 'caption' | 'answer' | 'detect' | 'segment' | 'free';

/** The first message to a worker. A worker loads one model. */
export interface LoadMessage {
  readonly kind: 'load';
  /** URL of a folder, or the files of one. */
  readonly source: string | readonly File[];
  readonly device: 'auto' | 'cpu' | 'webgpu';
  /** null: onnxruntime's choice. */
  readonly threads: number | null;
  /** Why the GPU, which the page chose first, cannot be used; empty: it was not tried. */
  readonly gpuProblem: string;
}

export type ToWorker =
  | LoadMessage
  | { readonly kind: 'ask'; readonly image: Blob; readonly prompt: string; readonly options: Options }
  /** Stops the request that runs. */
  | { readonly kind: 'cancel' };

export type FromWorker =
  | { readonly kind: 'progress'; readonly progress: LoadProgress }
  | { readonly kind: 'loaded'; readonly model: LoadedModel }
  /** The automatic choice was the GPU, and the graphs do not open or run there. */
  | { readonly kind: 'gpuFailed'; readonly message: string }
  | { readonly kind: 'piece'; readonly piece: string }
  | { readonly kind: 'answer'; readonly answer: Answer }
  /** `message` is empty after a cancellation. */
  | { readonly kind: 'failed'; readonly during: 'load' | 'ask'; readonly message: string };

/** What the page shows about a loaded model. */
export interface LoadedModel {
  readonly family: string;
  readonly parameters: number;
  readonly precision: string;
  readonly device: string;
  /** Threads of WebAssembly. */
  readonly threads: number;
  readonly loadS: number;
  /** Whether the bundle can decode masks. */
  readonly masks: boolean;
  /** As in `LoadMessage`. */
  readonly gpuProblem: string;
}

export interface Answer {
  readonly text: string;
  readonly finishReason: FinishReason;
  readonly timings: Timings;
  /** Number of generated tokens. */
  readonly tokens: number;
  readonly warnings: readonly string[];
  /** null: the prompt was neither `detect` nor `segment`. */
  readonly objects: readonly DrawnObject[] | null;
  /** The answer with the names of the Python driver. */
  readonly json: string;
}

/** An object of an answer, in pixels of the image in its displayed orientation. */
export interface DrawnObject {
  readonly label: string;
  readonly score: number;
  readonly box: PixelBox;
  /** null: no mask. */
  readonly mask: DrawnMask | null;
}

/** The rectangle of an object's mask around its box, in pixels of the image. */
export interface DrawnMask {
  readonly left: number;
  readonly top: number;
  readonly width: number;
  readonly height: number;
  /** uint8[height, width], 1 inside the object. */
  readonly data: Uint8Array<ArrayBuffer>;
}
