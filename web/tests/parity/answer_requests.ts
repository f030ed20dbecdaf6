/** Answer requests with a loaded model, in Node or in a page. The results are plain data for JSON. */

import type { Generation, Options, PaliGemma } from '../../src/index.js';
import { objectsAsJson } from '../../src/index.js';
import type { Pixels } from '../../src/image/pixels.js';

/** A request, as tests/support/web_answers.py writes it. */
export interface ParityRequest {
  /** Files of uint8[height, width, 3]. */
  images: { file: string; width: number; height: number }[];
  task: 'generate' | 'detect' | 'segment';
  /** The prompt or, for `detect` and `segment`, the labels. */
  prompt: string;
  options: Omit<Options, 'seed' | 'signal'> & { seed?: string };
  /** Ids for which the most likely next ids are compared, or null. */
  forced: number[] | null;
}

/** Answer requests in order. `read` returns the content of a file. */
export async function answerRequests(
  model: PaliGemma,
  requests: readonly ParityRequest[],
  read: (file: string) => Promise<Uint8Array>,
): Promise<unknown[]> {
  const answers: unknown[] = [];
  for (const request of requests) {
    const { seed, ...rest } = request.options;
    const options: Options = seed === undefined ? rest : { ...rest, seed: BigInt(seed) };
    const images: Pixels[] = [];
    for (const { file, width, height } of request.images) images.push({ data: await read(file), width, height });
    if (request.task === 'generate') {
      const stream = await model.stream(images, request.prompt, options);
      const pieces: string[] = [];
      for await (const piece of stream) pieces.push(piece);
      const agreeing = request.forced === null ? null : await forcedAgreement(model, images, request);
      answers.push({ ...plain(stream.result), pieces, agreeing });
      continue;
    }
    const found = await model[request.task](images[0]!, request.prompt, options);
    answers.push({
      ...plain(found.generation),
      warnings: found.warnings,
      objects: objectsAsJson(found),
      levels: found.objects.map(({ mask }) => mask && Array.from(mask.levels)),
    });
  }
  return answers;
}

function plain(generation: Generation): Record<string, unknown> {
  return { ...generation, seed: generation.seed.toString() };
}

/** Return how many of the forced ids are the most likely ones after the ids before them. */
async function forcedAgreement(model: PaliGemma, images: readonly Pixels[], request: ParityRequest): Promise<number> {
  const { runner, tokenizer, manifest } = model;
  const features: number[] = [];
  for (const image of images) features.push(...(await runner.encodeImage((await model.open(image)).pixels)));
  const prompt = [tokenizer.bosId, ...tokenizer.encodeText(`${request.prompt}\n`)];
  let agreeing = 0;
  let step = await runner.prefill(prompt, Float32Array.from(features), manifest.model.contextLength);
  for (const id of request.forced ?? []) {
    for (const suppressed of manifest.tokens.suppressed) step.logits[suppressed] = -Infinity;
    agreeing += Number(step.logits.indexOf(Math.max(...step.logits)) === id);
    step = await runner.decode(id, step.cache);
  }
  runner.release(step.cache);
  return agreeing;
}
