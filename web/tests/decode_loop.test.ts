import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type DecodeRequest, type TokenEvent, decodeTokens } from '../src/generation/decode_loop.js';
import { nearLocations } from '../src/generation/logits.js';
import { rngFor } from '../src/generation/random.js';
import type { Cache } from '../src/graphs/kv_cache.js';
import type { ModelRunner } from '../src/graphs/model_runner.js';
import { STOP, sampleManifest, VOCAB_SIZE } from './support/sample_manifest.js';

/** A runner whose most likely ids are given; it counts the caches that are not released. */
class ScriptedRunner implements ModelRunner {
  readonly manifest;
  readonly inputs: number[] = [];
  openCaches = 0;
  readonly #ids: readonly number[];

  constructor(ids: readonly number[], precision?: string) {
    this.#ids = ids;
    this.manifest = sampleManifest('grow', precision);
  }

  async encodeImage(): Promise<Float32Array> {
    return new Float32Array(6);
  }

  async prefill(inputIds: readonly number[], features: Float32Array): ReturnType<ModelRunner['prefill']> {
    this.openCaches++;
    return { logits: this.#logits(), cache: { values: [], length: features.length / 3 + inputIds.length } };
  }

  async decode(tokenId: number, cache: Cache): ReturnType<ModelRunner['decode']> {
    this.inputs.push(tokenId);
    return { logits: this.#logits(), cache: { values: [], length: cache.length + 1 } };
  }

  release(): void {
    this.openCaches--;
  }

  async decodeMasks(): Promise<Float32Array[]> {
    return [];
  }

  async close(): Promise<void> {}

  #logits(): Float32Array {
    const logits = new Float32Array(VOCAB_SIZE);
    logits[this.#ids[this.inputs.length] ?? STOP] = 5;
    return logits;
  }
}

function request(changes: Partial<DecodeRequest> = {}): DecodeRequest {
  return {
    imageFeatures: new Float32Array(6),
    prompt: [2, 4],
    maxNewTokens: 20,
    sampling: { temperature: 0, topK: 0, topP: 1, repetitionPenalty: 1, suppressTokens: [] },
    rng: rngFor(0, 0),
    grammar: null,
    near: null,
    signal: undefined,
    timings: { prefillS: 0, firstTokenAt: 0, decodeS: 0, decodedTokens: 0 },
    ...changes,
  };
}

async function collect(events: AsyncIterable<TokenEvent>): Promise<[number | null, string | null][]> {
  const collected: [number | null, string | null][] = [];
  for await (const { tokenId, finishReason } of events) collected.push([tokenId, finishReason]);
  return collected;
}

test('a stop id ends the answer, and is no part of it', async () => {
  const runner = new ScriptedRunner([5, 6]);
  const { timings } = request();
  assert.deepEqual(await collect(decodeTokens(runner, request({ timings }))), [
    [5, null],
    [6, null],
    [null, 'stop'],
  ]);
  assert.deepEqual(runner.inputs, [5, 6]);
  assert.equal(runner.openCaches, 0);
  assert.equal(timings.decodedTokens, 2);
  assert.ok(timings.firstTokenAt > 0 && timings.prefillS >= 0);
});

test('the answer ends at the maximum number of tokens, without another run', async () => {
  const runner = new ScriptedRunner([5, 6, 7]);
  assert.deepEqual(await collect(decodeTokens(runner, request({ maxNewTokens: 2 }))), [
    [5, null],
    [6, 'length'],
  ]);
  assert.deepEqual(runner.inputs, [5]);
});

test('the answer ends at the end of the context', async () => {
  const runner = new ScriptedRunner(Array<number>(400).fill(5));
  const events = await collect(decodeTokens(runner, request({ maxNewTokens: 300 })));
  assert.equal(events.length, 300 - 2 - 2); // context, image tokens, prompt
  assert.deepEqual(events.at(-1), [5, 'length']);
  assert.equal(runner.openCaches, 0);
});

test('an aborted signal keeps the tokens so far', async () => {
  const runner = new ScriptedRunner([5, 6, 7]);
  const controller = new AbortController();
  const events: [number | null, string | null][] = [];
  for await (const event of decodeTokens(runner, request({ signal: controller.signal }))) {
    events.push([event.tokenId, event.finishReason]);
    if (event.tokenId === 6) setTimeout(() => controller.abort()); // a task, such as a click
    while (event.tokenId === 6 && !controller.signal.aborted) await new Promise(setImmediate);
  }
  assert.deepEqual(events, [
    [5, null],
    [6, null],
    [null, 'cancelled'],
  ]);
  assert.equal(runner.openCaches, 0);
});

test('a request that is cancelled before it starts runs no graph', async () => {
  const runner = new ScriptedRunner([5]);
  const events = await collect(decodeTokens(runner, request({ signal: AbortSignal.abort() })));
  assert.deepEqual(events, [[null, 'cancelled']]);
  assert.equal(runner.openCaches, 0);
});

test('other tasks run between two tokens', async () => {
  let tasks = 0;
  let ended = false;
  const count = (): void => {
    tasks++;
    if (!ended) setImmediate(count);
  };
  setImmediate(count);
  const ids = Array<number>(200).fill(5);
  const events = await collect(decodeTokens(new ScriptedRunner(ids), request({ maxNewTokens: 200 })));
  ended = true;
  assert.equal(events.length, 200);
  assert.ok(tasks > 1);
});

test('the cache is released when the caller stops to iterate', async () => {
  const runner = new ScriptedRunner([5, 6, 7]);
  for await (const { tokenId } of decodeTokens(runner, request())) if (tokenId === 6) break;
  assert.equal(runner.openCaches, 0);
});

test('NaN logits are an error, with other advice for fp32', async () => {
  for (const [precision, advice] of [['int8', /use precision fp32/], ['fp32', /export --strict/]] as const) {
    const runner = new ScriptedRunner([5, Number.NaN], precision);
    const decode = runner.decode.bind(runner);
    runner.decode = async (...step) => ({ ...(await decode(...step)), logits: new Float32Array(VOCAB_SIZE).fill(NaN) });
    await assert.rejects(collect(decodeTokens(runner, request())), { name: 'NumericsError', message: advice });
    assert.equal(runner.openCaches, 0);
  }
});

test('suppressed ids are not chosen, and scores are those of the model', async () => {
  const runner = new ScriptedRunner([3, 6]); // 3 is suppressed
  const events: TokenEvent[] = [];
  for await (const event of decodeTokens(runner, request({ near: nearLocations([6, 7]) }))) events.push(event);
  assert.equal(events[0]!.tokenId, 0);
  assert.equal(events[1]!.tokenId, 6);
  const total = Math.exp(5) + VOCAB_SIZE - 1;
  assert.ok(Math.abs(events[0]!.score!.logprob - Math.log(1 / total)) < 1e-12);
  assert.ok(Math.abs(events[1]!.score!.locationProb! - (Math.exp(5) + 1) / total) < 1e-12);
});
