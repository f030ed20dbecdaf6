/**
 * Schema of `manifest.json`, as in runtime/bundle/schema.py. The names of the fields are in camel case.
 *
 * Shapes: docs/notation.md.
 */

import { integer, list, nullable, number, object, oneOf, optional, recordOf, text, withDefault } from './fields.js';

/** The versions that this driver reads. Version 2 has no `layout` of the cache. */
export const MIN_SCHEMA_VERSION = 2;
export const SCHEMA_VERSION = 3;
export const MANIFEST = 'manifest.json';
export const TENSOR_TABLE = 'tensors.json';
/** `<seg>` tokens of a mask form a grid of 4 x 4, row by row. */
export const SEG_TOKENS_PER_MASK = 16;

const dimension = (value: unknown, path: string): number | string =>
  typeof value === 'string' ? value : integer(value, path);

const tensorSpec = object({
  name: text,
  dtype: oneOf('float32', 'bfloat16', 'float16', 'int64'),
  /** A text names a dimension that varies. */
  shape: list(dimension),
});

const graphSpec = object({
  file: text,
  inputs: list(tensorSpec),
  outputs: list(tensorSpec),
  /** Number of nodes by operator. */
  operators: recordOf(integer),
  /** SHA-256 of the graph before the bundle's id was written into it. Graphs of equal content have equal digests. */
  digest: text,
});

const graphs = object({
  visionEncoder: graphSpec,
  prefill: graphSpec,
  decode: graphSpec,
  /** undefined: no mask decoder was exported. */
  maskDecoder: optional(graphSpec),
});

const fileSpec = object({ bytes: integer, sha256: text });

const modelFacts = object({
  family: oneOf('paligemma', 'paligemma2'),
  parameters: integer,
  /** D */
  hiddenSize: integer,
  /** V: rows of the embedding, and size of the logits. */
  vocabSize: integer,
  /** X: number of tokens, including image tokens. */
  contextLength: integer,
  /** Applied inside the graphs. */
  finalLogitSoftcapping: nullable(number),
  /** Tokens; applies to every second layer. */
  slidingWindow: nullable(integer),
  /** Attention heads of the vision tower. */
  visionHeads: integer,
  /** Format to which the linear layers were rounded before adapters were merged. */
  baseWeights: withDefault(oneOf('stored', 'nf4', 'nf4-double'), 'stored'),
});

const imageFacts = object({
  /** S: pixels per side. */
  size: integer,
  /** I: image tokens per image. */
  tokens: integer,
  rescaleFactor: number,
  /** One number per channel. */
  mean: list(number),
  /** One number per channel. */
  std: list(number),
  channels: oneOf('RGB'),
  /** Pillow's filter for 8-bit pixels; the aspect ratio is not kept. */
  resample: oneOf('bicubic'),
});

const tokenFacts = object({
  file: text,
  bos: integer,
  pad: integer,
  image: integer,
  stop: list(integer),
  /** Ids that are never generated. */
  suppressed: list(integer),
  template: oneOf('<bos>{prompt}\n'),
});

const cacheFacts = object({
  layers: integer,
  /** K */
  heads: integer,
  /** H */
  headDim: integer,
  dtype: oneOf('float32', 'bfloat16', 'float16'),
  /** `grow`: a decode step returns a cache that is one slot longer. `in_place`: it writes into its cache. */
  update: oneOf('grow', 'in_place'),
  /** `heads_slots`: keys and values are [B, K, C, H]. `slots_heads`: they are [B, C, K * H]. */
  layout: withDefault(oneOf('heads_slots', 'slots_heads'), 'heads_slots'),
});

const precisionFacts = object({
  name: text,
  opset: integer,
  /** Texts that describe the format of each graph's matrices, such as "float32". */
  matrices: object({ visionEncoder: text, prefill: text, decode: text, embedding: text }),
  /** With this number of rows or more, decode steps run the prefill graph; null: never. */
  wideBatch: nullable(integer),
  /** Devices that have kernels for the graphs. */
  devices: list(oneOf('cpu', 'cuda')),
});

const generationDefaults = object({
  maxNewTokens: integer,
  temperature: withDefault(number, 0),
  topK: withDefault(integer, 0),
  topP: withDefault(number, 1),
  repetitionPenalty: withDefault(number, 1),
  suppressTokens: withDefault<readonly number[]>(list(integer), []),
});

/** Read the fields of a manifest; throw a FieldError that names the first wrong field. */
export const readFields = object({
  schemaVersion: integer,
  bundleId: text,
  model: modelFacts,
  image: imageFacts,
  tokens: tokenFacts,
  cache: cacheFacts,
  graphs,
  precision: precisionFacts,
  generation: generationDefaults,
  producer: object({ paligemmaOnnx: text, torch: text, onnx: text }),
  /** Every file next to the manifest, by name. */
  files: recordOf(fileSpec),
});

/** An input or output of a graph. */
export type TensorSpec = ReturnType<typeof tensorSpec>;
/** A graph with its inputs and outputs in order. */
export type GraphSpec = ReturnType<typeof graphSpec>;
/** Size and SHA-256 of a file. */
export type FileSpec = ReturnType<typeof fileSpec>;
/** Preprocessing of an image: resize to a square, then (pixel * rescaleFactor - mean) / std. */
export type ImageFacts = ReturnType<typeof imageFacts>;
/** Token ids that the driver needs, from the checkpoint's tokenizer. */
export type TokenFacts = ReturnType<typeof tokenFacts>;
/** Facts of the KV cache, which has a key and a value for each layer. */
export type CacheFacts = ReturnType<typeof cacheFacts>;
/** Default values for the options of `generate`. */
export type GenerationDefaults = ReturnType<typeof generationDefaults>;
/** Description of a bundle. */
export type Manifest = ReturnType<typeof readFields>;
/** Name of a graph. */
export type GraphName = 'visionEncoder' | 'prefill' | 'decode' | 'maskDecoder';

/** Return the graphs that a bundle has, by name. */
export function graphsByName(manifest: Manifest): ReadonlyMap<GraphName, GraphSpec> {
  const named = Object.entries(manifest.graphs) as [GraphName, GraphSpec | undefined][];
  return new Map(named.filter((entry): entry is [GraphName, GraphSpec] => entry[1] !== undefined));
}
