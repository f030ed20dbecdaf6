// The part of web/tests/parity/speed.ts that runs in the page of transformers.js. The functions are those of
// web/tests/parity/speed_page.ts.

import { AutoProcessor, PaliGemmaForConditionalGeneration, RawImage, env } from '@huggingface/transformers';

let processor, model;

export async function load(threads, dtype) {
  const started = performance.now();
  Object.assign(env, { allowLocalModels: true, allowRemoteModels: false, localModelPath: '/', useBrowserCache: false });
  Object.assign(env.backends.onnx.wasm, { wasmPaths: '/ort/', numThreads: threads });
  [processor, model] = await Promise.all([
    AutoProcessor.from_pretrained('model'),
    PaliGemmaForConditionalGeneration.from_pretrained('model', { dtype, device: 'wasm' }),
  ]);
  return (performance.now() - started) / 1000;
}

export async function ask({ image, prompt, tokens }) {
  const file = await (await fetch(image)).blob();
  const started = performance.now();
  const arrived = []; // the streamer first receives the prompt, then each token
  const streamer = { put: () => arrived.push(performance.now()), end: () => {} };
  const inputs = await processor([await RawImage.fromBlob(file)], [`<image>${prompt}`], { padding: true });
  const output = await model.generate({ ...inputs, max_new_tokens: tokens, min_new_tokens: tokens, streamer });
  const totalS = (performance.now() - started) / 1000;
  const ids = output.tolist()[0].slice(inputs.input_ids.dims[1]).map(Number);
  return { firstTokenS: (arrived[1] - started) / 1000, totalS, ids };
}

export function version() {
  return env.backends.onnx.versions.web;
}
