/** Files of bundles in the browser's storage, so that a model loads without a network. */

import { MANIFEST } from '../src/bundle/schema.js';

const NAME = 'bundles'; // of the cache

/**
 * Return a `fetch` that stores the files of a bundle, and reads them from the storage from then on.
 *
 * `manifest.json` is read from the server if it can be reached. If it has changed, the stored files of the folder
 * are removed. The driver compares every file with its hash, stored files too. Without a storage, or if it is full,
 * files come from the server.
 */
export function storingFetch(): typeof fetch {
  return async (request, init) => {
    const url = new URL(String(request), globalThis.location.href);
    const cache = await openCache();
    if (cache === null) return fetch(url, init);
    if (url.pathname.endsWith(`/${MANIFEST}`)) return fetchManifest(cache, url, init);
    const stored = await cache.match(url);
    if (stored !== undefined) return stored;
    const response = await fetch(url, init);
    if (response.status === 200) store(cache, url, response.clone());
    return response;
  };
}

/** Remove the stored file that an error message names, so that the next attempt loads it from the server. */
export async function removeNamed(message: string): Promise<void> {
  const cache = await openCache();
  for (const { url } of (await cache?.keys()) ?? []) if (message.startsWith(`${url}:`)) await cache?.delete(url);
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

async function fetchManifest(cache: Cache, url: URL, init: RequestInit | undefined): Promise<Response> {
  const stored = await cache.match(url);
  let response: Response;
  try {
    response = await fetch(url, { ...init, cache: 'no-cache' });
  } catch (error) {
    if (stored === undefined || init?.signal?.aborted === true) throw error;
    return stored;
  }
  if (response.status !== 200) return response;
  if (stored !== undefined && (await stored.text()) !== (await response.clone().text())) await removeFolder(cache, url);
  store(cache, url, response.clone());
  return response;
}

async function removeFolder(cache: Cache, manifest: URL): Promise<void> {
  const folder = new URL('.', manifest).href;
  for (const { url } of await cache.keys()) if (url.startsWith(folder)) await cache.delete(url);
}

/** Store a response while it is read. A full storage does not stop the model from loading. */
function store(cache: Cache, url: URL, response: Response): void {
  cache.put(url, response).catch((error: unknown) => console.warn(`${url.href} is not stored: ${String(error)}`));
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
