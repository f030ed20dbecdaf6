/** Time this driver and transformers.js in headless Chromium, for benchmarks/web_speed.py. */

import { loadavg } from 'node:os';
import path from 'node:path';

import { openPage, startChromium } from '../support/chromium.js';
import { answerJob } from './job.js';
import type { SpeedRequest, Timed } from './speed_page.js';

const SYSTEMS = ['paligemma-onnx', 'transformers.js'] as const;
type System = (typeof SYSTEMS)[number];

interface Job {
  /** Models in the format of each system; `dtype` is that of transformers.js. */
  models: { name: string; dtype: string; folders: Record<System, string> }[];
  /** Module of the page of transformers.js, and the folder of its onnxruntime-web. */
  transformersPage: string;
  transformersOrt: string;
  threads: number[];
  rounds: number;
  /** Timed requests in each round, after one that is not timed. */
  requests: number;
  /** Folder of the image, and the request. */
  images: string;
  request: SpeedRequest;
  /** Address of the page of `paligemma-onnx web`. */
  site: string;
}

/** The figures of one system in one round. */
interface Round {
  model: string;
  threads: number;
  system: System;
  onnxruntimeWeb: string;
  loadS: number;
  requests: Timed[];
  /** Processes that ran or waited for a processor in the last minute, on average. */
  loadAverage: number;
}

interface Opened {
  system: System;
  onnxruntimeWeb: string;
  loadS: number;
  ask: () => Promise<Timed>;
  close: () => Promise<void>;
}

/** The functions that both pages export. */
declare const test: {
  load(threads: number, dtype: string): Promise<number>;
  ask(request: SpeedRequest): Promise<Timed>;
  version(): string;
};

await answerJob<Job>(async (job) => {
  const rounds: Round[] = [];
  const pageReadyS: number[] = [];
  for (let round = 0; round < job.rounds; round++) {
    pageReadyS.push(await timePage(job.site));
    const order = round % 2 === 0 ? SYSTEMS : [...SYSTEMS].reverse();
    for (const model of job.models) {
      for (const threads of job.threads) {
        rounds.push(...(await timeRound(job, model, threads, order)));
        console.error(`round ${round + 1} of ${job.rounds}: ${model.name}, threads: ${threads}`);
      }
    }
  }
  return { rounds, pageReadyS };
});

/** Load a model in both systems; then both answer the request in turn. */
async function timeRound(job: Job, model: Job['models'][number], threads: number, order: readonly System[]) {
  const opened: Opened[] = [];
  try {
    for (const system of order) opened.push(await open(job, system, model.folders[system], model.dtype, threads));
    const timed = opened.map((): Timed[] => []);
    for (let request = 0; request <= job.requests; request++) {
      for (const [index, { ask }] of opened.entries()) {
        const result = await ask();
        if (request > 0) timed[index]!.push(result);
      }
    }
    return opened.map(({ system, onnxruntimeWeb, loadS }, index): Round => {
      const facts = { model: model.name, threads, system, onnxruntimeWeb, loadS };
      return { ...facts, requests: timed[index]!, loadAverage: loadavg()[0]! };
    });
  } finally {
    for (const { close } of opened) await close();
  }
}

/** Open a page with a system, and load a model. */
async function open(job: Job, system: System, folder: string, dtype: string, threads: number): Promise<Opened> {
  const isOurs = system === 'paligemma-onnx';
  const entry = isOurs ? path.join(import.meta.dirname, 'speed_page.js') : job.transformersPage;
  const folders = { model: folder, images: job.images, ...(!isOurs && { ort: job.transformersOrt }) };
  const { page, close } = await openPage(entry, folders);
  try {
    const loadS = await page.evaluate(([number, type]) => test.load(number, type), [threads, dtype] as const);
    const onnxruntimeWeb = await page.evaluate(() => test.version());
    return { system, onnxruntimeWeb, loadS, close, ask: () => page.evaluate((given) => test.ask(given), job.request) };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Return the seconds from the start of the navigation until the page of `paligemma-onnx web` can load a model. */
async function timePage(site: string): Promise<number> {
  const browser = await startChromium([]);
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(0);
    await page.goto(site, { waitUntil: 'commit' });
    await page.waitForFunction(() => document.querySelector('#environment')?.textContent); // its program has run
    await page.waitForSelector('#load:enabled');
    return (await page.evaluate(() => performance.now())) / 1000;
  } finally {
    await browser.close();
  }
}
