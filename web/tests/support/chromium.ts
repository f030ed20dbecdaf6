/** A page in headless Chromium, with the files that a server of this process offers to it. */

import { createReadStream, statSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import path from 'node:path';

import { build } from 'esbuild';
import { type Browser, type BrowserType, chromium, type Page } from 'playwright-core';

/** The starter of `paligemma-onnx conformance`, as seen from the folder of compiled tests. */
const STARTER = new URL('../../../../runtime/conformance/javascript/chromium.mjs', import.meta.url).href;
type Launch = (playwright: { chromium: BrowserType }, flags?: readonly string[]) => Promise<Browser>;

const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};
/** The headers with which a page gets threads. */
const ISOLATED = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };

/** An open page, and the browser and the server behind it. */
export interface OpenPage {
  readonly page: Page;
  close(): Promise<void>;
}

/**
 * Open an empty page that has loaded a script.
 *
 * @param entry Compiled module; esbuild bundles it with what it imports.
 * @param folders Folder for each first part of a URL's path. `ort` has onnxruntime's files.
 * @param format `iife`: a script, whose exports are in `globalThis.test`. `esm`: a module, which may await.
 */
export async function openPage(
  entry: string,
  folders: Record<string, string>,
  format: 'iife' | 'esm' = 'iife',
): Promise<OpenPage> {
  const bundled = await build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    format,
    ...(format === 'iife' && { globalName: 'test' }),
    define: { 'import.meta.url': '"/"' }, // a script is no module
    logLevel: 'error',
  });
  const script = bundled.outputFiles[0]!.text;
  const dist = path.dirname(createRequire(import.meta.url).resolve('onnxruntime-web'));
  const { server, origin } = await serve({ ort: dist, ...folders }, ISOLATED);
  const browser = await startChromium();
  const page = await browser.newPage();
  page.setDefaultTimeout(0); // the test has its own limit
  await page.goto(origin);
  await page.addScriptTag({ content: script, type: format === 'esm' ? 'module' : 'text/javascript' });
  return { page, close: () => closeAll(browser, server) };
}

/** Start Chromium, with WebGPU on SwiftShader unless other flags are given. */
export async function startChromium(flags?: readonly string[]): Promise<Browser> {
  const { launchChromium } = (await import(STARTER)) as { launchChromium: Launch };
  return launchChromium({ chromium }, flags);
}

/** Return the MIME type of a file. */
export function contentType(file: string): string {
  return TYPES[path.extname(file)] ?? 'application/octet-stream';
}

/**
 * Serve files to this machine only.
 *
 * @param folders Folder for each first part of a URL's path, or for all other paths under the name of no letter.
 * @param headers Headers of every response.
 */
export async function serve(
  folders: Record<string, string>,
  headers: Record<string, string>,
): Promise<{ server: Server; origin: string }> {
  const server = createServer(({ url: target, method }, response) => {
    const { pathname } = new URL(target ?? '/', 'http://localhost');
    const [first = '', ...rest] = decodeURIComponent(pathname).slice(1).split('/');
    const file = folders[first] === undefined ? path.join(folders[''] ?? '', first, ...rest) : path.join(folders[first], ...rest);
    if (pathname === '/') return response.writeHead(200, { 'content-type': 'text/html', ...headers }).end(EMPTY_PAGE);
    const found = statSync(file, { throwIfNoEntry: false });
    if (found?.isFile() !== true) return response.writeHead(404, headers).end();
    response.writeHead(200, { 'content-type': contentType(file), 'content-length': found.size, ...headers });
    if (method === 'HEAD') return response.end();
    return createReadStream(file).pipe(response);
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  return { server, origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` };
}

const EMPTY_PAGE = '<!doctype html><title>test</title>';

export async function closeAll(browser: Browser, server: Server): Promise<void> {
  await browser.close();
  server.closeAllConnections();
  server.close();
}
