/**
 * Conversion of an RGB image to the pixel values of the vision encoder, bit for bit as in the Python driver.
 *
 * Shapes: docs/notation.md.
 */

import type { Pixels } from './pixels.js';
import { resizeBicubic } from './resize.js';

/** What the manifest states about the images of a bundle. */
export interface PreprocessingFacts {
  /** S, in pixels. */
  readonly size: number;
  /** Mean of each channel. */
  readonly mean: readonly number[];
  /** Standard deviation of each channel. */
  readonly std: readonly number[];
  /** Factor that maps a level of 0 to 255 to the range of `mean` and `std`. */
  readonly rescaleFactor: number;
}

/**
 * Return the pixel values float32[3, S, S] of an RGB image.
 *
 * The image is resized to S x S with bicubic interpolation on uint8 levels. Its aspect ratio is not kept. Then each
 * level becomes (level * rescaleFactor - mean) / std.
 *
 * @param rgb uint8[height, width, 3]
 */
export function preprocess(rgb: Pixels, facts: PreprocessingFacts): Float32Array {
  const { size, mean, std, rescaleFactor } = facts;
  const { data } = resizeBicubic(rgb, size, size);
  const pixelValues = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++) {
    // The precision is that of Python: the product in float64, and all other steps in float32.
    const centre = Math.fround(mean[channel]!);
    const spread = Math.fround(std[channel]!);
    const valueOfLevel = Float32Array.from(
      { length: 256 },
      (_, level) => Math.fround(Math.fround(level * rescaleFactor) - centre) / spread,
    );
    for (let place = 0; place < size * size; place++) {
      pixelValues[channel * size * size + place] = valueOfLevel[data[3 * place + channel]!]!;
    }
  }
  return pixelValues;
}
