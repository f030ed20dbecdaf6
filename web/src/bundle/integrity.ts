/** Compare the content of files with the sizes and hashes in the manifest. */

import { BundleError, ProviderError } from '../errors.js';
import type { FileSpec } from './schema.js';

/** First bytes of a pointer file (git-lfs specification). */
const LFS_POINTER = 'version https://git-lfs';

/** Return the SHA-256 of some bytes as hexadecimal digits. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  if (globalThis.crypto?.subtle === undefined)
    throw new ProviderError('the page cannot check files: serve it with https, or from localhost');
  return hexadecimal(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)));
}

/**
 * Check the size of a file.
 *
 * @param start the first bytes of the file, or more.
 *
 * @throws {BundleError} The file has another size, or is a Git LFS pointer.
 */
export function checkSize(file: string, size: number, expected: FileSpec, start: Uint8Array): void {
  if (size === expected.bytes) return;
  checkNoPointer(file, start);
  throw new BundleError(
    `${file}: ${size < expected.bytes ? 'is cut: it ' : ''}has ${size} bytes instead of ${expected.bytes}; ` +
      'copy the bundle again, or export it again',
  );
}

/** Throw a BundleError if a file is a Git LFS pointer. */
export function checkNoPointer(file: string, start: Uint8Array): void {
  if (new TextDecoder().decode(start.subarray(0, LFS_POINTER.length)) === LFS_POINTER)
    throw new BundleError(`${file}: a Git LFS pointer, not the file itself; run \`git lfs pull\``);
}

/** Return the error of a file with another hash. */
export function altered(file: string): BundleError {
  return new BundleError(`${file}: is altered (another SHA-256); copy the bundle again, or export it again`);
}

function hexadecimal(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}
