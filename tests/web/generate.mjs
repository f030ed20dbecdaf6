// Answer requests with transformers.js, and print the generated ids as JSON.
//
//     node generate.mjs JOB.json
//
// JOB.json: {"folder": ..., "dtype": ... or null, "requests": [{"texts": [...], "images": [files],
// "pixels": file of float32 or null, "tokens": number of ids to generate}]}

import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { AutoProcessor, PaliGemmaForConditionalGeneration, RawImage, Tensor, env } from '@huggingface/transformers';

const job = JSON.parse(readFileSync(process.argv[2], 'utf8'));
env.allowRemoteModels = false;
env.localModelPath = dirname(job.folder);
const name = basename(job.folder);
const processor = await AutoProcessor.from_pretrained(name);
const model = await PaliGemmaForConditionalGeneration.from_pretrained(name, job.dtype ? { dtype: job.dtype } : {});

const answers = [];
for (const request of job.requests) {
  const images = await Promise.all(request.images.map((file) => RawImage.read(file)));
  const inputs = await processor(images, request.texts, { padding: true });
  if (request.pixels) {
    const bytes = readFileSync(request.pixels);
    const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    inputs.pixel_values = new Tensor('float32', values, inputs.pixel_values.dims);
  }
  const output = await model.generate({ ...inputs, max_new_tokens: request.tokens });
  const prompt = inputs.input_ids.dims[1];
  answers.push({
    prompts: inputs.input_ids.tolist().map((row) => row.map(Number)),
    ids: output.tolist().map((row) => row.slice(prompt).map(Number)),
    texts: processor.batch_decode(output.slice(null, [prompt, null]), { skip_special_tokens: true }),
  });
}
console.log(JSON.stringify(answers));
