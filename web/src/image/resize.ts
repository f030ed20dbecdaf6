/**
 * Bicubic resizing of 8-bit images with the results of Pillow's `Image.resize`, bit for bit.
 *
 * One pass resizes the rows, another pass the columns. Both round to 8 bits, so their order matters. An output pixel
 * is a weighted sum of input pixels; the weights are float64 and sum to 1, and are then rounded to fixed point.
 *
 * The order is that of Pillow 13. Older versions always resize the rows first, so for tall images their levels
 * differ slightly.
 *
 * Shapes: docs/notation.md.
 */

import type { Pixels } from './pixels.js';

/** Side of the bicubic kernel in input pixels, to each side of its centre. */
const SUPPORT = 2;
/** Keys' parameter of cubic convolution (IEEE Transactions on ASSP 29(6), 1981); Pillow uses -0.5. */
const A = -0.5;
/**
 * Bits after the binary point of a weight. Of a sum of 32 bits, a level takes 8; 2 are left for the sign and for
 * sums beyond white, since some weights are negative.
 */
const FRACTION_BITS = 32 - 8 - 2;
const ONE = 2 ** FRACTION_BITS;
const HALF = 2 ** (FRACTION_BITS - 1);

/** The input pixels of each output pixel, along one side of an image. */
interface Weights {
  /** Position of the first input pixel: int32[out]. */
  readonly first: Int32Array;
  /** Number of input pixels: int32[out]. */
  readonly count: Int32Array;
  /** Fixed-point weights: int32[out, perPixel]; only the first `count` of each row are used. */
  readonly values: Int32Array;
  readonly perPixel: number;
}

/**
 * Return an image, resized with the bicubic filter. The aspect ratio is not kept.
 *
 * @param image uint8[height, width, 3], not modified.
 * @param width Pixels of the result.
 * @param height Pixels of the result.
 * @returns uint8[height, width, 3]
 */
export function resizeBicubic(image: Pixels, width: number, height: number): Pixels {
  const removedRows = image.height - height;
  const removedColumns = Math.max(0, image.width - width);
  // Pillow 13, pull request 9549: if far more rows than columns go, the second pass has less to do in this order.
  if (removedRows > 2 * removedColumns) return resizeRows(resizeColumns(image, height), width);
  return resizeColumns(resizeRows(image, width), height);
}

function resizeRows(image: Pixels, newWidth: number): Pixels {
  const { data, width, height } = image;
  if (width === newWidth) return image;
  const { first, count, values, perPixel } = weightsOf(width, newWidth);
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
  const { first, count, values, perPixel } = weightsOf(height, newHeight);
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

/**
 * Return the weights of the input pixels of each output pixel.
 *
 * The kernel lies around the centre of the output pixel, in coordinates of the input. If the image shrinks, the
 * kernel widens by the same factor, so that every input pixel counts.
 */
function weightsOf(from: number, to: number): Weights {
  const scale = from / to;
  const widening = Math.max(scale, 1);
  const support = SUPPORT * widening;
  const perPixel = 2 * Math.ceil(support) + 1;
  const first = new Int32Array(to);
  const count = new Int32Array(to);
  const values = new Int32Array(to * perPixel);
  const exact = new Float64Array(perPixel);
  for (let place = 0; place < to; place++) {
    const centre = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    let total = 0;
    for (let index = 0; index < end - start; index++) {
      exact[index] = cubic((index + start - centre + 0.5) * (1 / widening));
      total += exact[index]!;
    }
    for (let index = 0; index < end - start; index++) {
      values[place * perPixel + index] = roundedAway((exact[index]! / total) * ONE);
    }
    first[place] = start;
    count[place] = end - start;
  }
  return { first, count, values, perPixel };
}

/** Return the kernel of cubic convolution at a distance from its centre, in pixels. */
function cubic(distance: number): number {
  const x = Math.abs(distance);
  if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * A;
  return 0;
}

/** Return the nearest whole number; a number between two whole numbers is rounded away from zero. */
function roundedAway(value: number): number {
  return Math.trunc(value + (value < 0 ? -0.5 : 0.5));
}
