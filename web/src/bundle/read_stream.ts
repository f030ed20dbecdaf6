/** Read a stream of known or limited size into memory. */

import { BundleError, ResourceError } from '../errors.js';
import { MAX_BUFFER_BYTES, type OnBytes } from './files.js';
import { altered, checkSize, sha256 } from './integrity.js';
import type { FileSpec } from './schema.js';

/** Bytes that are read at once. */
const PART_BYTES = 1 << 20;

/** A hash of bytes that arrive in parts, as in the module `node:crypto`. */
export interface Hash {
  update(chunk: Uint8Array): unknown;
  digest(encoding: 'hex'): string;
}

/**
 * Read a stream to its end and check its content.
 *
 * @param file name of the file with its folder or URL, for messages.
 * @param hash a SHA-256. Default: `crypto.subtle`, which knows no parts and makes a copy of the content.
 *
 * @throws {BundleError} The content has another size or hash.
 * @throws {ResourceError} The file does not fit into memory.
 */
export async function readChecked(
  file: string,
  stream: AsyncIterable<Uint8Array>,
  expected: FileSpec,
  onBytes: OnBytes,
  hash?: Hash,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = allocate(file, expected.bytes);
  let size = 0;
  for await (const chunk of stream) {
    if (size + chunk.length <= bytes.length) bytes.set(chunk, size);
    size += chunk.length;
    if (size > bytes.length) break;
    hash?.update(chunk);
    onBytes(size);
  }
  checkSize(file, size, expected, bytes.subarray(0, size));
  if ((hash?.digest('hex') ?? (await sha256(bytes))) !== expected.sha256) throw altered(file);
  return bytes;
}

/**
 * Read a stream of at most `maxBytes` bytes.
 *
 * @throws {BundleError} The stream is longer.
 */
export async function readLimited(
  file: string,
  stream: AsyncIterable<Uint8Array>,
  maxBytes: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
    chunks.push(chunk.slice()); // the stream may use its memory again
    size += chunk.length;
    if (size > maxBytes) throw new BundleError(`${file}: larger than ${maxBytes} bytes; export the checkpoint again`);
  }
  const bytes = new Uint8Array(size);
  let offset = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, offset);
    offset += chunk.length;
  }
  return bytes;
}

/**
 * Return the parts of a stream. A part may be overwritten when the next one is requested.
 *
 * A stream of bytes, such as the body of a response, is read into the same memory again and again. With `chunksOf`, each
 * part has its memory, and a browser keeps much of a large file until it collects garbage.
 */
export async function* partsOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  let reader: ReadableStreamBYOBReader;
  try {
    reader = stream.getReader({ mode: 'byob' });
  } catch {
    return yield* chunksOf(stream); // not a stream of bytes
  }
  try {
    let part = await reader.read(new Uint8Array(PART_BYTES));
    while (!part.done) {
      yield part.value;
      part = await reader.read(new Uint8Array(part.value.buffer));
    }
  } finally {
    await reader.cancel();
  }
}

/** Return the chunks of a stream. (Safari's streams are no async iterables.) */
export async function* chunksOf(stream: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = stream.getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    await reader.cancel();
  }
}

function allocate(file: string, bytes: number): Uint8Array<ArrayBuffer> {
  if (bytes > MAX_BUFFER_BYTES)
    throw new BundleError(
      `${file}: has ${bytes} bytes, and JavaScript holds at most ${MAX_BUFFER_BYTES} in one buffer; export the ` +
        'checkpoint again, or with --precision int4-portable, which splits weights into shorter files',
    );
  try {
    return new Uint8Array(bytes);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new ResourceError(
      `${file}: out of memory (${bytes} more bytes are needed); close other tabs, or use a smaller bundle`,
    );
  }
}
