/** The files of a bundle, from wherever they come. */

import type { FileSpec } from './schema.js';

/** Number of bytes of a file that were read so far. */
export type OnBytes = (bytes: number) => void;

/**
 * A source of a bundle's files: `urlFiles`, `localFiles`, and in Node `folderFiles`.
 *
 * Both readers throw BundleError if the file is missing or cannot be read, and the reason of `signal` if it is
 * aborted.
 */
export interface BundleFiles {
  /** Return the name of a file with its folder or URL, for messages. */
  locate(name: string): string;

  /**
   * Read a file whose size is unknown.
   *
   * @throws {BundleError} It has more than `maxBytes` bytes.
   */
  readSmall(name: string, maxBytes: number, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>>;

  /**
   * Read a file and check it. The caller may free the memory of the result, so each call returns another buffer.
   *
   * @throws {BundleError} It has another size or hash.
   */
  read(
    name: string,
    expected: FileSpec,
    onBytes: OnBytes,
    signal?: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer>>;

  /**
   * Check a file and return its path, for a runtime that opens files itself. undefined: files have no paths.
   *
   * @throws {BundleError} The file is missing, or has another size or hash.
   */
  readonly path?: (name: string, expected: FileSpec, onBytes: OnBytes, signal?: AbortSignal) => Promise<string>;
}

/** Bytes of the largest ArrayBuffer that every browser allocates. */
export const MAX_BUFFER_BYTES = 2 ** 31 - 1;
