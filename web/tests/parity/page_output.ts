/**
 * Open a page of a site in headless Chromium, and return what it writes into its `<output>`, for tests/web/.
 *
 * Files of https://cdn.jsdelivr.net come from an installed package of the version that the address states. The page
 * fails if it asks for anything else on another host, or if an error is not caught.
 */

import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

import { closeAll, contentType, serve, startChromium } from '../support/chromium.js';
import { answerJob } from './job.js';

interface Job {
  /** Folder of the site. */
  folder: string;
  /** The page with its query, below the folder. */
  page: string;
  /** Folders with npm packages. */
  packages: string[];
}

/** Milliseconds after which a page hangs, also on a machine that does other work. */
const TIMEOUT_MS = 600_000;
const PACKAGED = /^https:\/\/cdn\.jsdelivr\.net\/npm\/((?:@[^/]+\/)?[^/@]+)@([^/]+)(?:\/(.*))?$/;

await answerJob<Job>(async (job) => {
  const { server, origin } = await serve({ '': job.folder }, {});
  const browser = await startChromium();
  try {
    const page = await browser.newPage();
    page.on('console', (message) => message.type() === 'error' && console.error(message.text()));
    const failed = new Promise<never>((_, reject) => {
      page.on('pageerror', reject);
      const isForeign = (url: URL): boolean => !url.href.startsWith(origin) && url.protocol !== 'blob:';
      void page.route(isForeign, async (route) => {
        const url = route.request().url();
        const file = findPackaged(url, job.packages);
        const headers = { 'access-control-allow-origin': '*' };
        if (file !== undefined) return route.fulfill({ path: file, contentType: contentType(file), headers });
        await route.abort();
        reject(new Error(`the page asks for ${url}`));
      });
    });
    await page.goto(origin + job.page, { timeout: TIMEOUT_MS });
    const output = page.locator('output:not(:empty)');
    await Promise.race([output.waitFor({ timeout: TIMEOUT_MS }), failed]);
    return await output.textContent();
  } finally {
    await closeAll(browser, server);
  }
});

/** Return the installed file for an address of jsdelivr, which states a package and its version. */
function findPackaged(url: string, folders: readonly string[]): string | undefined {
  const [, name, version, file] = PACKAGED.exec(url) ?? [];
  if (name === undefined) return undefined;
  for (const folder of folders) {
    const description = path.join(folder, name, 'package.json');
    if (!existsSync(description)) continue;
    const { version: installed, jsdelivr } = JSON.parse(readFileSync(description, 'utf8')) as Record<string, string>;
    const content = file ?? jsdelivr;
    if (installed === version && content !== undefined) return path.join(folder, name, content);
  }
  return undefined;
}
