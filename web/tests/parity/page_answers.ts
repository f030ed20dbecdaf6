/** Answer requests in headless Chromium, for tests/web/test_driver_answers.py. */

import path from 'node:path';

import { openPage } from '../support/chromium.js';
import type { ParityRequest } from './answer_requests.js';
import { answerJob } from './job.js';

interface Job {
  bundle: string;
  runtime: 'chromium' | 'webgpu';
  requests: ParityRequest[];
}

declare const test: typeof import('./page.js');

await answerJob<Job>(async ({ bundle, runtime, requests }) => {
  const images = path.dirname(requests[0]!.images[0]!.file);
  const { page, close } = await openPage(path.join(import.meta.dirname, 'page.js'), { bundle, images });
  try {
    const named = requests.map((request) => ({
      ...request,
      images: request.images.map((image) => ({ ...image, file: path.basename(image.file) })),
    }));
    const device = runtime === 'webgpu' ? 'webgpu' : 'cpu';
    return JSON.parse(await page.evaluate(([on, given]) => test.answer(on, given), [device, named] as const));
  } finally {
    await close();
  }
});
