/**
 * Bicubic resizing of 8-bit images with the results of Pillow's `Image.resize`, bit for bit.
 *
 * Both passes round to 8 bits. The weights are rounded to fixed point.
 *
 * Shapes: docs/notation.md.
 */

import type { Pixels } from './pixels.js';
import { BICUBIC, columnsFirst, type Weights, weightsOf } from './resampling.js';

/**
 * Bits after the binary point of a weight. Of a sum of 32 bits, a level takes 8; 2 are left for the sign and for
 * sums beyond white, since some weights are negative.
 */
const FRACTION_BITS = 32 - 8 - 2;
const ONE = 2 ** FRACTION_BITS;
const HALF = 2 ** (FRACTION_BITS - 1);

/**
 * Return an image, resized with the bicubic filter. The aspect ratio is not kept.
 *
 * @param image uint8[height, width, 3], not modified.
 * @param width Pixels of the result.
 * @param height Pixels of the result.
 * @returns uint8[height, width, 3]
 */
export function resizeBicubic(image: Pixels, width: number, height: number): Pixels {
  if (columnsFirst(image.width, image.height, width, height)) {
    return resizeRows(resizeColumns(image, height), width);
  }
  return resizeColumns(resizeRows(image, width), height);
}

function resizeRows(image: Pixels, newWidth: number): Pixels {
  const { data, width, height } = image;
  if (width === newWidth) return image;
  const { first, count, values, perPixel } = fixedWeights(width, newWidth);
  const resized = new Uint8ClampedArray(3 * newWidth * height); // assignment limits to 0 to 255
  let target = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < newWidth; x++) {
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      let source = 3 * (y * width + first[x]!);
      const end = x * perPixel + count[x]!;
      for (let index = x * perPixel; index < end; index++, source += 3) {
        const weight = values[index]!;
        red = (red + data[source]! * weight) | 0;
        green = (green + data[source + 1]! * weight) | 0;
        blue = (blue + data[source + 2]! * weight) | 0;
      }
      resized[target] = red >> FRACTION_BITS;
      resized[target + 1] = green >> FRACTION_BITS;
      resized[target + 2] = blue >> FRACTION_BITS;
      target += 3;
    }
  }
  return { data: resized, width: newWidth, height };
}

function resizeColumns(image: Pixels, newHeight: number): Pixels {
  const { data, width, height } = image;
  if (height === newHeight) return image;
  const { first, count, values, perPixel } = fixedWeights(height, newHeight);
  const stride = 3 * width; // bytes of a row
  const resized = new Uint8ClampedArray(stride * newHeight);
  for (let y = 0; y < newHeight; y++) {
    const start = y * perPixel;
    const end = start + count[y]!;
    for (let offset = 0; offset < stride; offset++) {
      let sum = HALF;
      let source = first[y]! * stride + offset;
      for (let index = start; index < end; index++, source += stride) {
        sum = (sum + data[source]! * values[index]!) | 0;
      }
      resized[y * stride + offset] = sum >> FRACTION_BITS;
    }
  }
  return { data: resized, width, height: newHeight };
}

/** Return the weights of `weightsOf` in fixed point: int32[out, perPixel]. */
function fixedWeights(from: number, to: number): Omit<Weights, 'values'> & { readonly values: Int32Array } {
  const weights = weightsOf(from, to, BICUBIC);
  return { ...weights, values: Int32Array.from(weights.values, (weight) => roundedAway(weight * ONE)) };
}

/** Return the nearest whole number; a number between two whole numbers is rounded away from zero. */
function roundedAway(value: number): number {
  return Math.trunc(value + (value < 0 ? -0.5 : 0.5));
}
