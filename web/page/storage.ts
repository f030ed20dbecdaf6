/** Files of bundles in the browser's storage, so that a model loads without a network. */

import { chunksOf } from '../src/bundle/read_stream.js';
import { MANIFEST } from '../src/bundle/schema.js';

const NAME = 'bundles'; // of the cache
/** The first status of a server's own failures (RFC 9110, section 15.6). */
const SERVER_ERROR = 500;

type Writer = WritableStreamDefaultWriter<Uint8Array>;

/** The files that are being stored, by URL. */
const storing = new Map<string, Promise<void>>();

/**
 * Return a `fetch` that stores the files of a bundle, and reads them from the storage from then on.
 *
 * `manifest.json` is read from the server if it answers. If it has changed, the stored files of the folder are
 * removed. The driver compares every file with its hash, stored files too. Without a storage, or if it is full,
 * files come from the server.
 */
export function storingFetch(): typeof fetch {
  return async (request, init) => {
    const url = new URL(String(request), globalThis.location.href);
    const cache = await openCache();
    const fresh: RequestInit = { ...init, cache: 'no-cache' }; // the browser may still hold the file of an old bundle
    if (cache === null) return fetch(url, fresh);
    if (isManifest(url.href)) return fetchManifest(cache, url, fresh);
    const earlier = await cache.match(url);
    if (earlier !== undefined) return earlier;
    const response = await fetch(url, fresh);
    if (response.status !== 200 || response.body === null) return response;
    const [loaded, copy] = [new TransformStream<Uint8Array>(), new TransformStream<Uint8Array>()];
    const stored = store(cache, url, new Response(copy.readable, response));
    void distribute(response.body, loaded.writable.getWriter(), copy.writable.getWriter(), stored);
    return new Response(loaded.readable, response);
  };
}

/**
 * Remove the stored file that an error message names, so that the next attempt loads it from the server.
 *
 * A manifest stays: it is compared with the server's anyway, and the next change is noticed by it.
 */
export async function removeNamed(message: string): Promise<void> {
  const cache = await openCache();
  const isNamed = (url: string): boolean => message.startsWith(`${url}:`) && !isManifest(url);
  for (const [url, stored] of storing) if (isNamed(url)) await stored; // otherwise it would appear after the removal
  for (const { url } of (await cache?.keys()) ?? []) if (isNamed(url)) await cache?.delete(url);
}

/** Remove all bundles. */
export async function removeAll(): Promise<void> {
  if (hasCaches()) await caches.delete(NAME);
}

/** Return the number of bytes that all stored files take, or 0 if this is unknown. */
export async function storedBytes(): Promise<number> {
  const cache = await openCache();
  if (cache === null || (await cache.keys()).length === 0) return 0;
  return (await navigator.storage.estimate()).usage ?? 0;
}

async function fetchManifest(cache: Cache, url: URL, init: RequestInit): Promise<Response> {
  const stored = await cache.match(url);
  let response: Response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    if (stored === undefined || init.signal?.aborted === true) throw error;
    return stored;
  }
  if (response.status >= SERVER_ERROR && stored !== undefined) return stored;
  if (response.status !== 200) return response;
  const text = await response.clone().text();
  if (!isJson(text)) return response; // for example the login page of a network: no reason to remove files
  if ((await stored?.text()) !== text) await removeFolder(cache, url);
  void store(cache, url, response.clone());
  return response;
}

async function removeFolder(cache: Cache, manifest: URL): Promise<void> {
  const folder = new URL('.', manifest).href;
  for (const { url } of await cache.keys()) if (new URL('.', url).href === folder) await cache.delete(url);
}

function isManifest(url: string): boolean {
  return new URL(url).pathname.endsWith(`/${MANIFEST}`);
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/**
 * Write each part of a body to two streams, when both can take it.
 *
 * The method `clone` of a response would hold in memory what the slower reader, the disk, has not read yet: up to the
 * whole file.
 *
 * @param stored resolves when the second stream is no longer read, for example because the storage is full. The first
 *   one goes on.
 */
async function distribute(
  body: ReadableStream<Uint8Array>,
  first: Writer,
  second: Writer,
  stored: Promise<void>,
): Promise<void> {
  const ignore = (): void => undefined; // each reader reports its errors
  let isStoring = true;
  void stored.then(() => (isStoring = false));
  const copy = (write: () => Promise<void>): Promise<void> | undefined =>
    isStoring ? Promise.race([stored, write().catch(ignore)]) : undefined;
  try {
    for await (const chunk of chunksOf(body)) await Promise.all([first.write(chunk), copy(() => second.write(chunk))]);
    await Promise.all([first.close(), copy(() => second.close())]);
  } catch (error) {
    await Promise.all([first.abort(error).catch(ignore), copy(() => second.abort(error))]);
  }
}

/** Store a response while it is read; return when that ends. A full storage does not stop the model from loading. */
function store(cache: Cache, url: URL, response: Response): Promise<void> {
  const stored = cache
    .put(url, response)
    .catch((error: unknown) => console.warn(`${url.href} is not stored: ${String(error)}`));
  storing.set(url.href, stored);
  return stored;
}

async function openCache(): Promise<Cache | null> {
  try {
    return hasCaches() ? await caches.open(NAME) : null;
  } catch {
    return null; // the browser forbids storage, for example in a private window
  }
}

function hasCaches(): boolean {
  return 'caches' in globalThis; // not on a page without https
}
