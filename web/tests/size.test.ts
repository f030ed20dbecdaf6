import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';

import { build } from 'esbuild';

/** Bytes of the minified driver with its dependency, without onnxruntime. */
const MAX_BYTES = 60_000;

test('the driver is small', async () => {
  const entry = path.join(import.meta.dirname, '..', 'src', 'index.js');
  const built = await build({ entryPoints: [entry], bundle: true, minify: true, write: false, format: 'esm' });
  const bytes = built.outputFiles[0]!.contents.length;
  assert.ok(bytes > 10_000 && bytes <= MAX_BYTES, `${bytes} bytes`);
});
