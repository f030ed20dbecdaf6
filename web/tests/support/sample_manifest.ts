/** A small manifest. Its graphs do not exist. */

import { type Manifest, readFields } from '../../src/bundle/schema.js';

type Update = Manifest['cache']['update'];

/** V of the manifest. */
export const VOCAB_SIZE = 8;
const FILES = ['vision_encoder.onnx', 'prefill.onnx', 'decode.onnx', 'tokenizer.json', 'tensors.json'];

/** Id that ends an answer. */
export const STOP = 1;

/**
 * Return a manifest with one layer, one head of width 2, and two image tokens of width 3.
 *
 * @param cacheShape Dimensions of keys and values.
 */
export function sampleManifest(
  update: Update,
  precision = 'int8',
  cacheShape: readonly (string | number)[] = ['batch', 1, 'slots', 2],
): Manifest {
  const spec = (name: string, dtype: string, shape: readonly unknown[]): unknown => ({ name, dtype, shape });
  const cache = (prefix: string): unknown[] =>
    ['key', 'value'].map((kind) => spec(`${prefix}.0.${kind}`, 'float32', cacheShape));
  const graph = (name: string, inputs: unknown[], outputs: unknown[]): unknown => ({
    file: `${name}.onnx`,
    inputs,
    outputs,
    operators: {},
    digest: name,
  });
  const logits = spec('logits', 'float32', ['batch', VOCAB_SIZE]);
  const ids = spec('input_ids', 'int64', ['batch', 'tokens']);
  const past = [spec('past_lengths', 'int64', ['batch']), ...cache('past_key_values')];
  const pixels = spec('pixel_values', 'float32', ['batch', 3, 2, 2]);
  const features = spec('image_features', 'float32', ['batch', 2, 3]);
  const prompt = [ids, spec('image_features', 'float32', ['batch', 'images', 3]), spec('text_lengths', 'int64', ['batch'])];
  const data: unknown = {
    schema_version: 2,
    bundle_id: '',
    model: {
      family: 'paligemma',
      parameters: 1,
      hidden_size: 3,
      vocab_size: VOCAB_SIZE,
      context_length: 300,
      final_logit_softcapping: null,
      sliding_window: null,
      vision_heads: 1,
    },
    image: { size: 2, tokens: 2, rescale_factor: 1, mean: [0, 0, 0], std: [1, 1, 1], channels: 'RGB', resample: 'bicubic' },
    tokens: { file: 'tokenizer.json', bos: 2, pad: 0, image: 3, stop: [STOP], suppressed: [3], template: '<bos>{prompt}\n' },
    cache: { layers: 1, heads: 1, head_dim: 2, dtype: 'float32', update, layout: cacheShape.length === 3 ? 'slots_heads' : 'heads_slots' },
    graphs: {
      vision_encoder: graph('vision_encoder', [pixels], [features]),
      prefill: graph('prefill', update === 'grow' ? prompt : [...prompt, ...past], [logits, ...cache('present')]),
      decode: graph('decode', [ids, ...past], [logits, ...cache('present')]),
    },
    precision: {
      name: precision,
      opset: 24,
      matrices: { vision_encoder: '', prefill: '', decode: '', embedding: '' },
      wide_batch: null,
      devices: ['cpu'],
    },
    generation: { max_new_tokens: 20 },
    producer: { paligemma_onnx: '', torch: '', onnx: '' },
    files: Object.fromEntries(FILES.map((name) => [name, { bytes: 0, sha256: '' }])),
  };
  return readFields(data, '');
}
