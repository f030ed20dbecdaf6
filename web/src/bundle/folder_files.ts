/** The files of a bundle in a folder, for Node. */

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import path from 'node:path';

import { BundleError } from '../errors.js';
import type { BundleFiles, OnBytes } from './files.js';
import { altered, checkSize } from './integrity.js';
import { readChecked, readLimited } from './read_stream.js';
import type { FileSpec } from './schema.js';

/** Bytes of a file that are read at once. */
const CHUNK_BYTES = 1 << 20;

/** Return the files of the bundle in a folder. */
export function folderFiles(folder: string): BundleFiles {
  const locate = (name: string): string => path.join(folder, name);

  async function* open(name: string, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    try {
      yield* createReadStream(locate(name), { highWaterMark: CHUNK_BYTES }) as AsyncIterable<Uint8Array>;
      signal?.throwIfAborted();
    } catch (error) {
      signal?.throwIfAborted();
      throw new BundleError(`${locate(name)}: ${explain(error)}`);
    }
  }

  /** Compare a file with its size and hash. The file may be larger than the memory. */
  async function check(name: string, expected: FileSpec, onBytes: OnBytes, signal?: AbortSignal): Promise<string> {
    const hash = createHash('sha256');
    let start = new Uint8Array();
    let size = 0;
    for await (const chunk of open(name, signal)) {
      signal?.throwIfAborted();
      if (size === 0) start = chunk.slice(0, CHUNK_BYTES);
      size += chunk.length;
      hash.update(chunk);
      onBytes(size);
    }
    checkSize(locate(name), size, expected, start);
    if (hash.digest('hex') !== expected.sha256) throw altered(locate(name));
    return locate(name);
  }

  return {
    locate,
    readSmall: (name, maxBytes, signal) => readLimited(locate(name), open(name, signal), maxBytes),
    read: (name, expected, onBytes, signal) =>
      readChecked(locate(name), open(name, signal), expected, onBytes, createHash('sha256')),
    path: check,
  };
}

function explain(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOENT' || code === 'ENOTDIR')
    return 'no such file; `paligemma-onnx export CHECKPOINT --output BUNDLE` makes a bundle';
  if (code === 'EACCES') return 'cannot be read; check the permissions of the file and of its folders';
  return `cannot be read (${error instanceof Error ? error.message : String(error)}); copy the bundle again`;
}
