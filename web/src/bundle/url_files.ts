/** The files of a bundle on a web server. */

import { BundleError, OptionError } from '../errors.js';
import type { BundleFiles } from './files.js';
import { partsOf, readChecked, readLimited } from './read_stream.js';

const COPY = 'copy the whole folder of the bundle to the server';

/**
 * Return the files of the bundle at a URL.
 *
 * @param base URL of the folder, absolute or relative to the page.
 * @param fetcher replaces `fetch`, for example by one that stores the files.
 * @throws {OptionError} `base` is not a URL.
 */
export function urlFiles(base: string | URL, fetcher: typeof fetch = (...request) => fetch(...request)): BundleFiles {
  const folder = folderUrl(base);
  const locate = (name: string): string => new URL(encodeURIComponent(name), folder).href;

  async function open(name: string, signal?: AbortSignal): Promise<AsyncIterable<Uint8Array>> {
    const url = locate(name);
    let response: Response;
    try {
      response = await fetcher(url, { signal: signal ?? null });
    } catch (error) {
      signal?.throwIfAborted();
      throw unreachable(url, error);
    }
    if (response.status === 404) throw new BundleError(`${url}: no such file; ${COPY}`);
    if (!response.ok || response.body === null)
      throw new BundleError(`${url}: the server answers ${response.status} ${response.statusText}; check its settings`);
    return interruptible(url, response.body, signal);
  }

  return {
    locate,
    readSmall: async (name, maxBytes, signal) => readLimited(locate(name), await open(name, signal), maxBytes),
    read: async (name, expected, onBytes, signal) =>
      readChecked(locate(name), await open(name, signal), expected, onBytes),
  };
}

function folderUrl(base: string | URL): URL {
  try {
    const folder = new URL(base, globalThis.location?.href);
    if (!folder.pathname.endsWith('/')) folder.pathname += '/';
    return folder;
  } catch {
    throw new OptionError(`${String(base)}: is not a URL; for a folder on this machine, use folderFiles in Node`);
  }
}

/** Return the chunks of a body. A lost connection throws a BundleError. */
async function* interruptible(
  url: string,
  body: ReadableStream<Uint8Array>,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  try {
    yield* partsOf(body);
  } catch (error) {
    signal?.throwIfAborted();
    throw unreachable(url, error);
  }
}

function unreachable(url: string, error: unknown): BundleError {
  const reason = error instanceof Error ? error.message : String(error);
  return new BundleError(
    `${url}: cannot be loaded (${reason}); check the address, the connection, and that the server permits ` +
      'requests from this page (CORS)',
  );
}
