/**
 * What the resizing of images and of masks share: Pillow's filters, weights and order of passes.
 *
 * One pass resizes the rows, another pass the columns. An output pixel is a weighted sum of input pixels.
 *
 * Shapes: docs/notation.md.
 */

/** A filter: its kernel, which is 0 at distances of `support` and more from the centre. */
export interface Filter {
  /** Input pixels. */
  readonly support: number;
  /** Return the weight at a distance, in input pixels. */
  readonly kernel: (distance: number) => number;
}

/** The input pixels of each output pixel, along one side of an image. */
export interface Weights {
  /** Position of the first input pixel: int32[out]. */
  readonly first: Int32Array;
  /** Number of input pixels: int32[out]. */
  readonly count: Int32Array;
  /** float64[out, perPixel]; the first `count` of each row sum to 1, the others are 0. */
  readonly values: Float64Array;
  readonly perPixel: number;
}

/** Keys' parameter of cubic convolution (IEEE Transactions on ASSP 29(6), 1981); Pillow uses -0.5. */
const A = -0.5;

export const BICUBIC: Filter = { support: 2, kernel: cubic };
export const BILINEAR: Filter = { support: 1, kernel: (distance) => Math.max(0, 1 - Math.abs(distance)) };

/**
 * Return the weights of the input pixels of each output pixel.
 *
 * The kernel lies around the centre of the output pixel, in coordinates of the input. If the image shrinks, the
 * kernel widens by the same factor, so that every input pixel counts.
 *
 * @param from Pixels of the side before resizing.
 * @param to Pixels of the side after it.
 */
export function weightsOf(from: number, to: number, { support, kernel }: Filter): Weights {
  const scale = from / to;
  const widening = Math.max(scale, 1);
  const reach = support * widening;
  const perPixel = 2 * Math.ceil(reach) + 1;
  const first = new Int32Array(to);
  const count = new Int32Array(to);
  const values = new Float64Array(to * perPixel);
  for (let place = 0; place < to; place++) {
    const centre = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = values.subarray(place * perPixel, place * perPixel + end - start);
    let total = 0;
    for (let index = 0; index < weights.length; index++) {
      weights[index] = kernel((index + start - centre + 0.5) * (1 / widening));
      total += weights[index]!;
    }
    for (let index = 0; index < weights.length; index++) weights[index]! /= total;
    first[place] = start;
    count[place] = weights.length;
  }
  return { first, count, values, perPixel };
}

/**
 * Return whether the columns are resized before the rows. Each pass rounds, so the order matters.
 *
 * The order is that of Pillow 13 (pull request 9549): columns first if more than twice as many rows go as columns.
 * Older versions always resize the rows first, so their results for tall images differ slightly.
 */
export function columnsFirst(width: number, height: number, newWidth: number, newHeight: number): boolean {
  return height - newHeight > 2 * Math.max(0, width - newWidth);
}

/** Return the kernel of cubic convolution at a distance from its centre, in pixels. */
function cubic(distance: number): number {
  const x = Math.abs(distance);
  if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * A;
  return 0;
}
