/** The service worker of the page, with a fake cache and a fake server. */

import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';

const BASE = 'https://example.org/site/';
const ORT = `${BASE}ort/ort.wasm.min.mjs`;

type Listener = (event: object) => void;

const listeners = new Map<string, Listener>();
let stored: Map<string, string>;
let serve: (url: string) => Promise<Response>;
let isFull: boolean;

const cache = {
  match: async (url: string) => (stored.has(url) ? new Response(stored.get(url)) : undefined),
  put: async (url: string, response: Response) => {
    if (isFull) throw new DOMException('full', 'QuotaExceededError');
    stored.set(url, await response.text());
  },
  keys: async () => [...stored.keys()].map((url) => ({ url })),
  add: async ({ url }: Request) => void stored.set(url, await (await serve(url)).text()),
  delete: async (url: string) => stored.delete(url),
  addAll: async (requests: Request[]) => {
    for (const request of requests) await cache.add(request);
  },
};
const fakes = {
  registration: { scope: BASE },
  clients: { claim: async () => {} },
  skipWaiting: async () => {},
  addEventListener: (type: string, listener: Listener) => listeners.set(type, listener),
  caches: { open: async () => cache },
  fetch: async ({ url }: { url: string }) => serve(url),
  SCRIPTS: ['main.js?a1', 'worker.js?a1'],
};
for (const [name, value] of Object.entries(fakes)) Object.defineProperty(globalThis, name, { value });
await import('../page/service_worker.js');

/** Return the answer to a request of the page, or undefined if the service worker leaves it to the browser. */
async function get(url: string): Promise<Response | undefined> {
  let answer: Promise<Response> | undefined;
  const done: Promise<unknown>[] = [];
  listeners.get('fetch')!({
    request: { method: 'GET', url },
    respondWith: (response: Promise<Response>) => (answer = response),
    waitUntil: (each: Promise<unknown>) => done.push(each),
  });
  const response = await answer;
  await Promise.all(done);
  return response;
}

beforeEach(() => {
  stored = new Map();
  isFull = false;
  serve = async (url) => new Response(`content of ${url}`);
});

test('files of the page are isolated and stored, and bundles are left to the page', async () => {
  const response = await get(`${BASE}index.html?some=query#part`);
  assert.equal(response?.headers.get('cross-origin-embedder-policy'), 'require-corp');
  assert.deepEqual([...stored.keys()], [BASE]);
  assert.equal(await get(`${BASE}bundle/manifest.json`), undefined);
  assert.equal(await get('https://example.org/main.js'), undefined);
});

test('without a server, or if it fails, the stored file is the answer', async () => {
  await get(ORT);
  for (const failing of [() => Promise.reject(new TypeError('offline')), async () => new Response('', { status: 502 })]) {
    serve = failing;
    assert.equal(await (await get(ORT))!.text(), `content of ${ORT}`);
  }
});

test('a full storage does not stop the page', async (t) => {
  t.mock.method(console, 'warn', () => {});
  isFull = true;
  assert.equal(await (await get(ORT))!.text(), `content of ${ORT}`);
});

test('a redirection, as to a login, is passed on', async () => {
  const redirection = Object.defineProperty(Response.error(), 'type', { value: 'opaqueredirect' });
  serve = async () => redirection;
  assert.equal(await get(BASE), redirection);
});

test('a new release replaces the stored files, onnxruntime included', async () => {
  await get(ORT);
  serve = async (url) => new Response(`new ${url}`);
  await install();
  assert.equal(stored.get(ORT), `new ${ORT}`);
  assert.equal(stored.get(BASE), `new ${BASE}`);
});

test('a tab of an older release gets the scripts of that release', async () => {
  const [oldest, old] = ['90', '91'].map((hash) => [`${BASE}main.js?${hash}`, `${BASE}worker.js?${hash}`]) as [string[], string[]];
  for (const url of [...oldest, ...old]) stored.set(url, `content of ${url}`);
  serve = async (url) => new Response(`new ${url}`);
  await install();
  assert.deepEqual([...stored.keys()].filter((url) => url.includes('?')).sort(), [
    ...[old[0], `${BASE}main.js?a1`],
    ...[old[1], `${BASE}worker.js?a1`],
  ]);
  assert.equal(await (await get(old[1]!))!.text(), `content of ${old[1]}`);
  const current = await get(`${BASE}worker.js?a1`);
  assert.equal(await current!.text(), `new ${BASE}worker.js?a1`);
  assert.equal(current!.headers.get('cross-origin-embedder-policy'), 'require-corp');
  assert.equal(await (await get(oldest[0]!))!.text(), `new ${oldest[0]}`); // it is no longer stored
  assert.equal(stored.has(oldest[0]!), false);
});

/** Install the service worker, as a browser does for a new release. */
async function install(): Promise<void> {
  let done: Promise<unknown> | undefined;
  listeners.get('install')!({ waitUntil: (each: Promise<unknown>) => (done = each) });
  await done;
}
