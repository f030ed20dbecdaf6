/**
 * Check that a manifest has no contradictions and declares the inputs that the driver feeds to graphs.
 *
 * Shapes: docs/notation.md.
 */

import { FieldError } from './fields.js';
import {
  type Manifest,
  SEG_TOKENS_PER_MASK,
  TENSOR_TABLE,
  type TensorSpec,
  graphsByName,
} from './schema.js';

/** Sizes, token ids and positions are 32-bit numbers in kernels. */
const MAX_SIZE = 2 ** 31 - 1;
/** Bounds of the preprocessing, which is computed in float32. SigLIP's numbers are 1/255 and 0.5. */
const MIN_FACTOR = 1e-9;
const MAX_FACTOR = 1e9;

/** A dimension that varies is null. */
type Shape = readonly (number | null)[];

/**
 * Check a manifest.
 *
 * @throws {FieldError} The manifest has a contradiction; the message names the first one.
 */
export function checkManifest(manifest: Manifest): void {
  checkFiles(manifest);
  checkNumbers(manifest);
  checkTokens(manifest);
  checkGraphs(manifest);
}

function checkFiles(manifest: Manifest): void {
  const graphFiles = [...graphsByName(manifest).values()].map((graph) => graph.file);
  const used = [...graphFiles, manifest.tokens.file, TENSOR_TABLE];
  for (const name of [...manifest.files.keys(), ...used]) {
    if (/[\\/:]|\p{C}/u.test(name) || ['', '.', '..'].includes(name))
      throw new FieldError(`${JSON.stringify(name)} is not a plain file name; files of a bundle lie in its folder`);
  }
  const missing = used.find((name) => !manifest.files.has(name));
  if (missing !== undefined) throw new FieldError(`${missing} is used but not listed under files`);
}

function checkNumbers(manifest: Manifest): void {
  const { model, image, cache, generation, precision } = manifest;
  const atLeast1: Record<string, number> = {
    'model.hidden_size': model.hiddenSize,
    'model.vocab_size': model.vocabSize,
    'model.context_length': model.contextLength,
    'image.size': image.size,
    'image.tokens': image.tokens,
    'cache.layers': cache.layers,
    'cache.heads': cache.heads,
    'cache.head_dim': cache.headDim,
    'generation.max_new_tokens': generation.maxNewTokens,
    'precision.wide_batch': precision.wideBatch ?? 1,
  };
  for (const [field, value] of Object.entries(atLeast1)) {
    if (value < 1 || value > MAX_SIZE) throw new FieldError(`${field} is ${value}, expected 1 to ${MAX_SIZE}`);
  }
  if (generation.maxNewTokens > model.contextLength)
    throw new FieldError('generation.max_new_tokens is over model.context_length');
  if (!(generation.temperature >= 0 && generation.topK >= 0 && generation.topP > 0 && generation.topP <= 1))
    throw new FieldError('generation.temperature, top_k or top_p is out of its range');
  if (!(generation.repetitionPenalty > 0))
    throw new FieldError('generation.repetition_penalty is not a number above 0');
  if (image.mean.length !== 3 || !image.mean.every((value) => Math.abs(value) <= MAX_FACTOR))
    throw new FieldError(`image.mean is not three numbers of at most ${MAX_FACTOR}`);
  const factors = [image.rescaleFactor, ...image.std];
  if (image.std.length !== 3 || !factors.every((value) => value >= MIN_FACTOR && value <= MAX_FACTOR))
    throw new FieldError(`image.rescale_factor or image.std is not from ${MIN_FACTOR} to ${MAX_FACTOR}`);
  for (const [name, { bytes }] of manifest.files) {
    if (bytes < 0) throw new FieldError(`files.${name} has a negative size`);
  }
}

function checkTokens({ tokens, generation, model }: Manifest): void {
  if (tokens.stop.length === 0) throw new FieldError('tokens.stop is empty, so no answer would end');
  const ids = [tokens.bos, tokens.pad, ...tokens.stop, ...tokens.suppressed, ...generation.suppressTokens];
  const outside = ids.find((id) => !(id >= 0 && id < model.vocabSize));
  if (outside !== undefined)
    throw new FieldError(`token id ${outside} is outside the vocabulary of ${model.vocabSize}`);
}

function checkGraphs({ model, image, cache, graphs, precision }: Manifest): void {
  if (cache.layers > graphs.decode.outputs.length)
    throw new FieldError(`cache.layers is ${cache.layers}, the decode graph has fewer outputs`);
  const cacheShape =
    cache.layout === 'slots_heads'
      ? [null, null, cache.heads * cache.headDim]
      : [null, cache.heads, null, cache.headDim];
  const cacheShapes = (prefix: string): [string, Shape][] =>
    Array.from({ length: 2 * cache.layers }, (_, index) => [
      `${prefix}.${index >> 1}.${index % 2 === 0 ? 'key' : 'value'}`,
      cacheShape,
    ]);
  const logits: [string, Shape] = ['logits', [null, model.vocabSize]];
  const past: [string, Shape][] = [['past_lengths', [null]], ...cacheShapes('past_key_values')];
  let prefill: [string, Shape][] = [
    ['input_ids', [null, null]],
    ['image_features', [null, null, model.hiddenSize]],
    ['text_lengths', [null]],
  ];
  // The graph of a decode step may accept several tokens.
  const ids = graphs.decode.inputs.find((spec) => spec.name === 'input_ids');
  let decode: [string, Shape][] = [['input_ids', [null, typeof ids?.shape[1] === 'string' ? null : 1]], ...past];
  if (cache.update === 'in_place') {
    prefill = [...prefill, ...past];
    if (graphs.decode.inputs.some((spec) => spec.name === 'image_features')) decode = prefill;
  } else if (precision.wideBatch !== null) {
    throw new FieldError('precision.wide_batch needs a cache that is updated in place');
  }
  const { visionEncoder, maskDecoder } = graphs;
  checkTensors('vision_encoder', visionEncoder.inputs, [['pixel_values', [null, 3, image.size, image.size]]]);
  const features: Shape = [null, image.tokens, model.hiddenSize];
  checkTensors('vision_encoder', visionEncoder.outputs, [['image_features', features]]);
  checkTensors('prefill', graphs.prefill.inputs, prefill);
  checkTensors('prefill', graphs.prefill.outputs, [logits, ...cacheShapes('present')]);
  checkTensors('decode', graphs.decode.inputs, decode);
  checkTensors('decode', graphs.decode.outputs, [logits, ...cacheShapes('present')]);
  if (maskDecoder !== undefined) {
    checkTensors('mask_decoder', maskDecoder.inputs, [['codes', [null, SEG_TOKENS_PER_MASK]]]);
    const side = Number(maskDecoder.outputs[0]?.shape.at(-1)) || 1;
    checkTensors('mask_decoder', maskDecoder.outputs, [['masks', [null, side, side]]]);
  }
  for (const { name, dtype } of [...graphs.prefill.inputs, ...graphs.decode.inputs, ...graphs.decode.outputs]) {
    if (/^(past_key_values|present)\./.test(name) && dtype !== cache.dtype)
      throw new FieldError(`${name} is ${dtype}, cache.dtype says ${cache.dtype}`);
  }
}

/** Throw a FieldError if names, order or fixed dimensions of a graph's tensors are not as expected. */
function checkTensors(graph: string, specs: readonly TensorSpec[], expected: readonly [string, Shape][]): void {
  const differs = expected.findIndex(([name]) => specs.every((spec) => spec.name !== name));
  if (differs >= 0 || specs.length !== expected.length)
    throw new FieldError(
      `graphs.${graph} has other inputs or outputs than the driver uses: ` +
        (expected[differs]?.[0] ?? specs.map((spec) => spec.name).join(', ')),
    );
  for (const [index, [name, shape]] of expected.entries()) {
    const spec = specs[index] as TensorSpec;
    const actual = spec.shape.map((size) => (typeof size === 'number' ? size : null));
    if (spec.name !== name || JSON.stringify(actual) !== JSON.stringify(shape))
      throw new FieldError(`graphs.${graph}: the shape of ${name} does not follow from model, image and cache`);
  }
}
