/** Read `manifest.json`, the file that describes a bundle. */

import { BundleError } from '../errors.js';
import { checkManifest } from './check_manifest.js';
import { FieldError } from './fields.js';
import type { BundleFiles } from './files.js';
import { checkNoPointer, sha256 } from './integrity.js';
import { MANIFEST, MIN_SCHEMA_VERSION, type Manifest, SCHEMA_VERSION, graphsByName, readFields } from './schema.js';

/** Hexadecimal digits of a bundle id: 128 bits. */
const ID_LENGTH = 32;
/** The manifest of a 46-layer model has 60 kB. */
const MAX_MANIFEST_BYTES = 4 << 20;

/**
 * Read and check the manifest of a bundle.
 *
 * @throws {BundleError} The file is missing or damaged, has another schema, names a path outside the folder, or
 * contradicts itself.
 */
export async function readManifest(files: BundleFiles, signal?: AbortSignal): Promise<Manifest> {
  const file = files.locate(MANIFEST);
  const bytes = await files.readSmall(MANIFEST, MAX_MANIFEST_BYTES, signal);
  checkNoPointer(file, bytes);
  const text = new TextDecoder().decode(bytes);
  const data = parseObject(file, text);
  checkSchemaVersion(file, data.schema_version);
  try {
    const manifest = readFields(data, '');
    checkManifest(manifest);
    if ((await bundleId(text, data, manifest)) !== manifest.bundleId)
      throw new FieldError('is altered: its content does not match its bundle_id');
    return manifest;
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    throw new BundleError(`${file}: ${error.message}; export the checkpoint again`);
  }
}

function parseObject(file: string, text: string): Record<string, unknown> {
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch {
    throw new BundleError(`${file}: not valid JSON; export the checkpoint again`);
  }
  if (typeof data !== 'object' || data === null || Array.isArray(data))
    throw new BundleError(`${file}: not a JSON object; export the checkpoint again`);
  return data as Record<string, unknown>;
}

function checkSchemaVersion(file: string, version: unknown): void {
  if (typeof version !== 'number' || !Number.isInteger(version) || version < 1)
    throw new BundleError(`${file}: schema_version is not a positive whole number; export the checkpoint again`);
  if (version < MIN_SCHEMA_VERSION)
    throw new BundleError(
      `${file}: schema ${version} is older than this release reads (${MIN_SCHEMA_VERSION}); export the checkpoint again`,
    );
  if (version > SCHEMA_VERSION)
    throw new BundleError(
      `${file}: schema ${version} is newer than this release reads (${SCHEMA_VERSION}); ` +
        'update it with `npm install paligemma-onnx@latest`',
    );
}

/**
 * Return the id of a bundle: a hash of the manifest without the id and without the graph files.
 *
 * Python hashes the text that it writes, and JavaScript writes some numbers in another form (1.0 as 1). So the
 * numbers of the file are hashed as they are written there.
 */
async function bundleId(text: string, data: Record<string, unknown>, manifest: Manifest): Promise<string> {
  const graphFiles = new Set([...graphsByName(manifest).values()].map((graph) => graph.file));
  const files = Object.entries(data.files as Record<string, unknown>).filter(([name]) => !graphFiles.has(name));
  files.sort(([left], [right]) => (left < right ? -1 : 1));
  const indented = indent(text);
  const head = indented.slice(0, indented.lastIndexOf('  "files": {')); // the last field
  const withoutId = head.replace(`"bundle_id": "${manifest.bundleId}"`, '"bundle_id": ""');
  const listed = JSON.stringify({ files: Object.fromEntries(files) }, null, 2);
  const written = `${withoutId}${listed.slice(2)}\n`.replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return (await sha256(new TextEncoder().encode(written))).slice(0, ID_LENGTH);
}

/** Return JSON with the line breaks of Python's `json.dumps(..., indent=2)`, and with unchanged numbers. */
function indent(text: string): string {
  let depth = 0;
  const line = (): string => `\n${'  '.repeat(depth)}`;
  return text.replace(/"(?:[^"\\]|\\.)*"|[{[]\s*[}\]]|[^\s{}[\],:]+|\s+|./g, (token) => {
    if (/^[{[]\s*[}\]]$/.test(token)) return token[0]! + token.at(-1)!; // empty
    if (token === '{' || token === '[') {
      depth++;
      return token + line();
    }
    if (token === '}' || token === ']') {
      depth--;
      return line() + token;
    }
    return token === ',' ? token + line() : token === ':' ? ': ' : token.trim();
  });
}
