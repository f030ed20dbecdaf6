// Answer requests with transformers.js in Node, and print the generated ids as JSON.
//
//     node generate.mjs JOB.json
//
// JOB.json: {"folder": ..., "dtype": ... or null, "requests": [{"texts": [...], "images": [files],
// "pixels": file of float32 or null, "tokens": number of ids to generate}]}

import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import * as library from '@huggingface/transformers';
import { answer } from './answer.mjs';

function read(file) {
  const bytes = readFileSync(file);
  return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
}

const job = JSON.parse(readFileSync(process.argv[2], 'utf8'));
library.env.allowRemoteModels = false;
library.env.localModelPath = dirname(job.folder);
const options = job.dtype ? { dtype: job.dtype } : {};
console.log(JSON.stringify(await answer(library, basename(job.folder), options, job.requests, read)));
