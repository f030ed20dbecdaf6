/** The files of a bundle that a person chose in a browser. */

import { BundleError } from '../errors.js';
import type { BundleFiles } from './files.js';
import { partsOf, readChecked, readLimited } from './read_stream.js';
import { MANIFEST } from './schema.js';

/**
 * Return the files of a bundle among chosen files: those in the folder of `manifest.json`, the outermost if several
 * folders have one.
 *
 * @param chosen files of a file dialog or of a drop.
 * @throws {BundleError} Two bundles are equally far outside.
 */
export function localFiles(chosen: Iterable<File>): BundleFiles {
  const all = [...chosen];
  const depth = (folder: string): number => folder.split('/').length;
  const folders = all.filter((file) => file.name === MANIFEST).map(folderOf);
  const [folder = '', second] = folders.sort((left, right) => depth(left) - depth(right));
  if (second !== undefined && depth(second) === depth(folder))
    throw new BundleError(`${folder}${MANIFEST} and ${second}${MANIFEST}: two bundles were chosen; choose the folder of one`);
  const byName = new Map(all.filter((file) => folderOf(file) === folder).map((file) => [file.name, file]));
  const locate = (name: string): string => folder + name;

  async function* open(name: string, signal?: AbortSignal): AsyncGenerator<Uint8Array> {
    const file = byName.get(name);
    if (file === undefined)
      throw new BundleError(`${locate(name)}: is missing; choose the folder of the bundle, or all of its files`);
    try {
      for await (const chunk of partsOf(file.stream())) {
        signal?.throwIfAborted();
        yield chunk;
      }
      signal?.throwIfAborted();
    } catch (error) {
      signal?.throwIfAborted();
      const reason = error instanceof Error ? error.message : String(error);
      throw new BundleError(`${locate(name)}: cannot be read (${reason}); choose the files again`);
    }
  }

  return {
    locate,
    readSmall: (name, maxBytes, signal) => readLimited(locate(name), open(name, signal), maxBytes),
    read: (name, expected, onBytes, signal) => readChecked(locate(name), open(name, signal), expected, onBytes),
  };
}

/** Return the path of the folder of a chosen file with a final slash, or an empty text. */
function folderOf(file: File): string {
  return (file.webkitRelativePath ?? '').slice(0, -file.name.length);
}
