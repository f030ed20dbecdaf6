/** Run a program of the docs in headless Chromium, for tests/web/test_driver_docs.py; return the page's text. */

import { openPage } from '../support/chromium.js';
import { answerJob } from './job.js';

interface Job {
  program: string;
  folders: Record<string, string>;
}

await answerJob<Job>(async ({ program, folders }) => {
  const { page, close } = await openPage(program, folders, 'esm');
  try {
    await page.waitForFunction(() => document.body.innerText.endsWith('Done.'), undefined, { timeout: 120_000 });
    return await page.evaluate(() => document.body.innerText);
  } finally {
    await close();
  }
});
