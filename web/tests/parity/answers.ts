/** Answer requests in Node, for tests/web/test_driver_answers.py. */

import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

import type { Ort } from '../../src/graphs/ort.js';
import { PaliGemma } from '../../src/index.js';
import { folderFiles } from '../../src/node.js';
import { type ParityRequest, answerRequests } from './answer_requests.js';
import { answerJob } from './job.js';

interface Job {
  bundle: string;
  runtime: 'onnxruntime-node' | 'onnxruntime-web';
  requests: ParityRequest[];
}

await answerJob<Job>(async ({ bundle, runtime, requests }) => {
  const ort = createRequire(import.meta.url)(runtime) as Ort;
  const model = await PaliGemma.load(folderFiles(bundle), { ort, threads: 1 });
  const answers = await answerRequests(model, requests, (file) => readFile(file));
  await model.close();
  return answers;
});
