/** Open image files in headless Chromium, for tests/web/test_driver_decoding.py. */

import path from 'node:path';

import { openPage } from '../support/chromium.js';
import { answerJob } from './job.js';

interface Job {
  /** Folder of the images. */
  folder: string;
  names: string[];
}

declare const test: typeof import('./image_page.js');

await answerJob<Job>(async ({ folder, names }) => {
  const entry = path.join(import.meta.dirname, 'image_page.js');
  const { page, close } = await openPage(entry, { images: folder });
  try {
    return await page.evaluate((given) => test.openFiles(given), names);
  } finally {
    await close();
  }
});
