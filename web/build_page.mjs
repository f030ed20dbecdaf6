/**
 * Build the page into a folder: `node build_page.mjs [FOLDER]`.
 *
 * The default folder is part of the Python package, whose command `paligemma-onnx web` adds onnxruntime-web and a
 * bundle.
 */

import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';

import { build } from 'esbuild';

const web = import.meta.dirname;
const output = path.resolve(process.argv[2] ?? path.join(web, '..', 'runtime', 'website', 'page'));
const options = { bundle: true, minify: true, target: 'es2022', charset: 'utf8', outdir: output, logLevel: 'warning' };
const entry = (name) => path.join(web, 'page', `${name}.ts`);

await mkdir(output, { recursive: true });
await build({ ...options, format: 'esm', entryPoints: [entry('main'), entry('worker')] });
await copyFile(path.join(web, 'index.html'), path.join(output, 'index.html'));
for (const file of ['style.css', 'icon.svg', 'manifest.webmanifest'])
  await copyFile(path.join(web, 'page', file), path.join(output, file));
// Browsers install a service worker again, with all files of the page, if its own file changes.
const release = createHash('sha256');
for (const file of ['index.html', 'main.js', 'worker.js', 'style.css']) release.update(await readFile(path.join(output, file)));
const banner = { js: `// ${release.digest('hex')}` };
await build({ ...options, banner, format: 'iife', entryPoints: [entry('service_worker')] });
