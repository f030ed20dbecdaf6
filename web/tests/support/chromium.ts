/** A page in headless Chromium, with the files that a server of this process offers to it. */

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import path from 'node:path';

import { build } from 'esbuild';
import { type Browser, chromium, type Page } from 'playwright-core';

const PROGRAMS = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
/** Containers often forbid the sandbox; the page loads nothing from another host. */
export const SANDBOX = '--no-sandbox';
/** WebGPU on SwiftShader, a Vulkan driver on the CPU. */
const WEBGPU = [
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--use-vulkan=swiftshader',
  '--enable-features=Vulkan',
];
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
  const server = await serve({ ort: dist, ...folders }, { '/': '<!doctype html><title>test</title>' });
  const browser = await chromium.launch({ executablePath: findChromium(), args: [SANDBOX, ...WEBGPU], timeout: 0 });
  const page = await browser.newPage();
  page.setDefaultTimeout(0); // the test has its own limit
  await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  await page.addScriptTag({ content: script, type: format === 'esm' ? 'module' : 'text/javascript' });
  return { page, close: () => closeAll(browser, server) };
}

export function findChromium(): string {
  const folders = (process.env.PATH ?? '').split(path.delimiter);
  const programs = PROGRAMS.flatMap((name) => folders.map((folder) => path.join(folder, name)));
  const found = [...programs, chromium.executablePath()].find((program) => existsSync(program));
  if (found === undefined) throw new Error('Chromium is not installed');
  return found;
}

/** Serve the files of some folders, and some texts, to this machine only. */
async function serve(folders: Record<string, string>, texts: Record<string, string>): Promise<Server> {
  const server = createServer((request, response) => {
    const url = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname);
    const [, first = '', ...rest] = url.split('/');
    const folder = folders[first];
    const send = (status: number, type: string, body: string | Buffer): void => {
      const length = Buffer.byteLength(body);
      response.writeHead(status, { 'content-type': type, 'content-length': length, ...ISOLATED }).end(body);
    };
    if (texts[url] !== undefined) return send(200, 'text/html', texts[url]);
    if (folder === undefined) return send(404, 'text/plain', '');
    const file = path.join(folder, ...rest);
    readFile(file).then(
      (content) => send(200, TYPES[path.extname(file)] ?? 'application/octet-stream', content),
      () => send(404, 'text/plain', ''),
    );
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  return server;
}

async function closeAll(browser: Browser, server: Server): Promise<void> {
  await browser.close();
  server.closeAllConnections();
  server.close();
}
