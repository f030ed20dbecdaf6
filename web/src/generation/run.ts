/** Run a planned request: encode its images, prefill, decode. */

import type { ModelRunner } from '../graphs/model_runner.js';
import { decodeTokens } from './decode_loop.js';
import { nearLocations } from './logits.js';
import type { PlannedRequest } from './plan.js';
import { rngFor } from './random.js';

/**
 * Generate the answer to a request; yield each piece of its text, which may be empty.
 *
 * After a cancellation the iteration ends without an error. The request then keeps the tokens generated so far.
 *
 * @param pixelValues float32[3, S, S] for each image.
 * @param locationIds Ids of the location tokens.
 * @throws {NumericsError} The logits are NaN or infinite.
 * @throws {ResourceError} Out of memory.
 */
export async function* runRequest(
  request: PlannedRequest,
  pixelValues: readonly Float32Array[],
  runner: ModelRunner,
  locationIds: readonly number[],
): AsyncGenerator<string> {
  const { options } = request;
  request.startedAt = performance.now();
  const { image, model } = runner.manifest;
  const size = image.tokens * model.hiddenSize;
  const imageFeatures = new Float32Array(pixelValues.length * size);
  for (const [index, pixels] of pixelValues.entries()) {
    if (options.signal?.aborted) return;
    imageFeatures.set(await runner.encodeImage(pixels), index * size);
  }
  request.visionS = (performance.now() - request.startedAt) / 1000;
  const events = decodeTokens(runner, {
    imageFeatures,
    prompt: request.prompt,
    maxNewTokens: options.maxNewTokens,
    sampling: options.sampling,
    rng: rngFor(request.seed, 0),
    grammar: request.grammar,
    near: options.logprobs ? nearLocations(locationIds) : null,
    signal: options.signal,
    timings: request.timings,
  });
  for await (const { tokenId, finishReason, score } of events) {
    let piece = '';
    if (tokenId !== null) {
      request.tokenIds.push(tokenId);
      if (score !== null) request.scores.push(score);
      piece = request.detokenizer.push(tokenId);
    }
    if (finishReason !== null) {
      request.finishReason = finishReason;
      piece += request.detokenizer.finish(); // the detokenizer may hold back half a character
    }
    request.pieces.push(piece);
    yield piece;
  }
}
