/** The storage of the page, with a fake cache and a fake server. */

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

import { removeNamed, storingFetch } from '../page/storage.js';

const FOLDER = 'https://example.org/bundle/';
const MANIFEST = `${FOLDER}manifest.json`;
const WEIGHTS = `${FOLDER}decoder.data`;

let stored: Map<string, string>;
/** What the server answers; null: it cannot be reached. */
let served: Record<string, [status: number, body: string]> | null;
let isFull = false;
let requests: [url: string, cache: RequestCache | undefined][] = [];

class FakeCache {
  async match(url: URL): Promise<Response | undefined> {
    const body = stored.get(String(url));
    return body === undefined ? undefined : new Response(body);
  }

  async put(url: URL, response: Response): Promise<void> {
    if (isFull) throw new DOMException('full', 'QuotaExceededError');
    const body = await response.text();
    await new Promise(setImmediate); // a browser writes to its disk
    stored.set(String(url), body);
  }

  async keys(): Promise<{ url: string }[]> {
    return [...stored.keys()].map((url) => ({ url }));
  }

  async delete(url: string): Promise<boolean> {
    return stored.delete(url);
  }
}

const fakes = {
  location: { href: 'https://example.org/' },
  caches: { open: async () => new FakeCache() },
  fetch: async (url: URL, init: RequestInit) => {
    requests.push([url.href, init.cache]);
    if (served === null) throw new TypeError('fetch failed');
    const [status, body] = served[url.href] ?? [404, ''];
    return new Response(body, { status });
  },
};
for (const [name, value] of Object.entries(fakes)) Object.defineProperty(globalThis, name, { value });

const read = async (url: string): Promise<string> => (await storingFetch()(url)).text();
/** Wait until what was read is stored. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(() => setImmediate(() => resolve())));

beforeEach(async () => {
  stored = new Map();
  served = { [MANIFEST]: [200, '{"id": 1}'], [WEIGHTS]: [200, 'weights'] };
  for (const url of [MANIFEST, WEIGHTS]) await read(url);
  await settled();
  requests = [];
});

test('a file comes from the storage, and the manifest from the server', async () => {
  assert.equal(await read(WEIGHTS), 'weights');
  assert.equal(await read(MANIFEST), '{"id": 1}');
  assert.deepEqual(requests, [[MANIFEST, 'no-cache']]);
});

test('a changed manifest removes the files of its folder only', async () => {
  const others = ['https://example.org/bundle2/decoder.data', `${FOLDER}sub/decoder.data`];
  for (const other of others) stored.set(other, 'other');
  served = { [MANIFEST]: [200, '{"id": 2}'], [WEIGHTS]: [200, 'new weights'] };
  assert.equal(await read(MANIFEST), '{"id": 2}');
  assert.equal(await read(WEIGHTS), 'new weights');
  assert.deepEqual(requests.at(-1), [WEIGHTS, 'no-cache']); // not the old file, which the browser may still hold
  for (const other of others) assert.ok(stored.has(other));
});

test('files of an unknown manifest are not used', async () => {
  stored.delete(MANIFEST);
  served![WEIGHTS] = [200, 'new weights'];
  await read(MANIFEST);
  assert.equal(await read(WEIGHTS), 'new weights');
});

test('a login page in place of the manifest does not empty the storage', async () => {
  served![MANIFEST] = [200, '<!doctype html>'];
  assert.equal(await read(MANIFEST), '<!doctype html>');
  await removeNamed(`${MANIFEST}: is no JSON; copy it again`);
  await settled();
  assert.deepEqual([...stored], [[MANIFEST, '{"id": 1}'], [WEIGHTS, 'weights']]);
});

test('without a server, or if it fails, the stored manifest is used', async () => {
  for (const state of [null, { [MANIFEST]: [503, 'busy'] as [number, string] }]) {
    served = state;
    assert.equal(await read(MANIFEST), '{"id": 1}');
  }
  served = {};
  assert.equal((await storingFetch()(MANIFEST)).status, 404);
});

test('a damaged file is removed, also if it is still being stored', async () => {
  stored.delete(WEIGHTS);
  await read(WEIGHTS); // its storing goes on
  await removeNamed(`${WEIGHTS}: is altered (another SHA-256); copy the bundle again`);
  await settled();
  assert.deepEqual([...stored.keys()], [MANIFEST]);
});

test('a file is read at the pace of its storing, and a full storage does not stop it', async (t) => {
  t.mock.method(console, 'warn', () => {});
  stored.delete(WEIGHTS);
  let taken = 0;
  const parts = (): Response =>
    new Response(
      new ReadableStream<Uint8Array>({
        pull(controller) {
          controller.enqueue(new Uint8Array(1000));
          if (++taken === 100) controller.close();
        },
      }),
    );
  t.mock.method(globalThis, 'fetch', async () => parts());
  const reader = (await storingFetch()(WEIGHTS)).body!.getReader();
  await reader.read();
  for (let turn = 0; turn < 10; turn++) await settled();
  assert.ok(taken < 10, `${taken} parts were taken, and one was read`);
  await reader.cancel();
  [taken, isFull] = [0, true];
  const content = await (await storingFetch()(WEIGHTS)).arrayBuffer();
  isFull = false;
  assert.equal(content.byteLength, 100_000);
  assert.ok(!stored.has(WEIGHTS));
});

test('no partial content and no error is stored', async () => {
  stored.delete(WEIGHTS);
  for (const status of [206, 404, 500]) {
    served![WEIGHTS] = [status, 'part'];
    await read(WEIGHTS);
    await settled();
    assert.ok(!stored.has(WEIGHTS));
  }
});
