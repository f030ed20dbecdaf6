/** Open and preprocess images, for tests/web/test_driver_image.py. */

import { readFileSync, writeFileSync } from 'node:fs';

import { resizeLevels } from '../../src/detection/resize_levels.js';
import type { Decoder } from '../../src/image/decode.js';
import { openPicture } from '../../src/image/picture.js';
import { answerJob } from './job.js';
import { valueOrMessage } from './value_or_message.js';

interface Job {
  images: {
    /** Encoded file, or null: the pixels are given as they are. What the decoder receives is written to FILE.given. */
    file: string | null;
    /** File of the decoded pixels: uint8[height, width, channels]. */
    pixels: string;
    width: number;
    height: number;
    size: number;
    maxPixels: number;
  }[];
  /** Levels of a mask, float32[side, side], and the size they are resized to. */
  masks: { levels: string; side: number; width: number; height: number }[];
  mean: number[];
  std: number[];
  rescaleFactor: number;
  /** File that receives the pixel values of all images and then the resized levels of all masks, float32. */
  output: string;
}

await answerJob<Job>(async (job) => {
  const values: Uint8Array[] = [];
  const results = [];
  for (const { file, pixels, width, height, size, maxPixels } of job.images) {
    const decoded = { data: new Uint8Array(readFileSync(pixels)), width, height };
    const decode: Decoder = async (given) => {
      writeFileSync(`${file}.given`, given);
      return decoded;
    };
    const source = file === null ? decoded : new Uint8Array(readFileSync(file));
    results.push(
      await valueOrMessage(async () => {
        const picture = await openPicture(source, { ...job, size }, { decode, maxPixels });
        values.push(new Uint8Array(picture.pixels.buffer));
        return { width: picture.width, height: picture.height, warnings: picture.warnings };
      }),
    );
  }
  for (const { levels, side, width, height } of job.masks) {
    const bytes = new Uint8Array(readFileSync(levels));
    const resized = resizeLevels(new Float32Array(bytes.buffer), side, width, height);
    values.push(new Uint8Array(resized.buffer));
  }
  writeFileSync(job.output, Buffer.concat(values));
  return results;
});
