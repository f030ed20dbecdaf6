// Open a page in headless Chromium, wait until it writes into its <output>, and print that text.
//
//     node chromium.mjs CHROMIUM FOLDER PAGE
//
// A server offers the files of FOLDER to this machine. Files of https://cdn.jsdelivr.net come from node_modules.
// The page fails if it asks for anything else, or reports an error.

import { createReadStream, existsSync, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { FLAGS } from '../../runtime/conformance/javascript/chromium.mjs';

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.mjs': 'text/javascript', '.json': 'application/json', '.wasm': 'application/wasm' };
const TIMEOUT = 600_000; // milliseconds after which a page hangs, also on a machine that does other work
const PACKAGE = /^https:\/\/cdn\.jsdelivr\.net\/npm\/((?:@[^/]+\/)?[^/@]+)@([^/]+)(?:\/(.*))?$/;
const PACKAGES = path.join(import.meta.dirname, 'node_modules');
const [program, folder, name] = process.argv.slice(2);

// Return the file in node_modules for a URL of jsdelivr, which states a package and its version.
function findPackaged(url) {
  const [, name, version, file] = PACKAGE.exec(url) ?? [];
  if (name === undefined) return undefined;
  for (const parent of [path.join(PACKAGES, '@huggingface/transformers/node_modules'), PACKAGES]) {
    const description = path.join(parent, name, 'package.json');
    if (!existsSync(description)) continue;
    const { version: installed, jsdelivr } = JSON.parse(readFileSync(description, 'utf8'));
    if (installed === version) return path.join(parent, name, file ?? jsdelivr);
  }
  return undefined;
}

const contentType = (file) => TYPES[path.extname(file)] ?? 'application/octet-stream';
const server = createServer((request, response) => {
  const file = path.join(folder, path.normalize(decodeURIComponent(new URL(request.url, 'http://localhost').pathname)));
  if (!existsSync(file) || !statSync(file).isFile()) return response.writeHead(404).end();
  response.writeHead(200, { 'content-type': contentType(file), 'content-length': statSync(file).size });
  if (request.method === 'HEAD') return response.end();
  createReadStream(file).pipe(response);
});
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
const origin = `http://127.0.0.1:${server.address().port}/`;
const browser = await chromium.launch({ executablePath: program, args: FLAGS, timeout: TIMEOUT });
try {
  const page = await browser.newPage();
  const failed = new Promise((_, reject) => {
    page.on('pageerror', reject);
    page.on('console', (message) => message.type() === 'error' && console.error(message.text()));
    page.route(
      (url) => !url.href.startsWith(origin) && url.protocol !== 'blob:',
      async (route) => {
        const file = findPackaged(route.request().url());
        if (file !== undefined) return route.fulfill({ path: file, contentType: contentType(file), headers: { 'access-control-allow-origin': '*' } });
        await route.abort();
        reject(new Error(`the page asks for ${route.request().url()}`));
      },
    );
  });
  await page.goto(origin + name, { timeout: TIMEOUT });
  const output = page.locator('output:not(:empty)');
  await Promise.race([output.waitFor({ timeout: TIMEOUT }), failed]);
  console.log(await output.textContent());
} finally {
  await browser.close();
  server.close();
}
