/**
 * Build the page into a folder: `node build_page.mjs [FOLDER]`.
 *
 * The default folder is part of the Python package, whose command `paligemma-onnx web` adds onnxruntime-web and a
 * bundle.
 */

import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';

import { build } from 'esbuild';

const web = import.meta.dirname;
const output = path.resolve(process.argv[2] ?? path.join(web, '..', 'runtime', 'website', 'page'));
const options = { bundle: true, minify: true, target: 'es2022', charset: 'utf8', outdir: output, logLevel: 'warning' };
const entry = (name) => path.join(web, 'page', `${name}.ts`);

/** Return the address of a built script, which has a hash of its content, so that a tab gets scripts of one release. */
const addressOf = async (file) => {
  const hash = createHash('sha256').update(await readFile(path.join(output, file)));
  return `${file}?${hash.digest('hex').slice(0, 16)}`;
};
/** Return definitions of constants for esbuild. */
const constants = (values) =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, JSON.stringify(value)]));

await mkdir(output, { recursive: true });
await build({ ...options, format: 'esm', entryPoints: [entry('worker')] });
const WORKER = await addressOf('worker.js');
await build({ ...options, format: 'esm', entryPoints: [entry('main')], define: constants({ WORKER }) });
const main = await addressOf('main.js');
const index = await readFile(path.join(web, 'index.html'), 'utf8');
await writeFile(path.join(output, 'index.html'), index.replace('src="main.js"', `src="${main}"`));
for (const file of ['style.css', 'icon.svg', 'manifest.webmanifest'])
  await copyFile(path.join(web, 'page', file), path.join(output, file));
// Browsers install a service worker again, with all files of the page, if its own file changes.
const release = createHash('sha256');
for (const file of ['index.html', 'style.css']) release.update(await readFile(path.join(output, file)));
const banner = { js: `// ${release.digest('hex')}` };
const define = constants({ SCRIPTS: [main, WORKER] });
await build({ ...options, banner, define, format: 'iife', entryPoints: [entry('service_worker')] });
