/** Read `tensors.json`, which lists the weight files of each graph. */

import { BundleError } from '../errors.js';
import type { BundleFiles } from './files.js';
import { type GraphName, type Manifest, TENSOR_TABLE } from './schema.js';

const TABLE_NAMES: Record<GraphName, string> = {
  visionEncoder: 'vision_encoder',
  prefill: 'prefill',
  decode: 'decode',
  maskDecoder: 'mask_decoder',
};

/** Names of the weight files of each graph. */
export type WeightFiles = (graph: GraphName) => readonly string[];

/**
 * Read the names of each graph's weight files.
 *
 * @throws {BundleError} The file is missing or altered.
 */
export async function readWeightFiles(
  files: BundleFiles,
  manifest: Manifest,
  signal?: AbortSignal,
): Promise<WeightFiles> {
  const bytes = await files.read(TENSOR_TABLE, expectedFile(manifest, TENSOR_TABLE), () => {}, signal);
  const table = JSON.parse(new TextDecoder().decode(bytes)) as {
    graphs: Record<string, { file: string }[] | undefined>;
  };
  const names = (graph: GraphName): readonly string[] => [
    ...new Set((table.graphs[TABLE_NAMES[graph]] ?? []).map((tensor) => tensor.file)),
  ];
  return names;
}

/**
 * Return size and hash of a file.
 *
 * @throws {BundleError} The manifest does not list the file.
 */
export function expectedFile(manifest: Manifest, name: string): { bytes: number; sha256: string } {
  const spec = manifest.files.get(name);
  if (spec === undefined) throw new BundleError(`${name}: is not listed in the manifest; export the checkpoint again`);
  return spec;
}
