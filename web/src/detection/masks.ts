/** A decoded mask at its position in the image. */

import { type Box, type PixelBox, boxPixels } from './parsing.js';
import { resizeLevels } from './resize_levels.js';
import { type RunLengths, encodeRunLengths } from './rle.js';

/** The pixels of an image that belong to an object. Each access to a property computes its value again. */
export class Mask {
  /** float32[side, side], the mask decoder's output for the box. Values inside the object are positive. */
  readonly levels: Float32Array;
  /** Rectangle of the image that the mask covers. */
  readonly box: Box;
  /** Pixels of the image in its displayed orientation. */
  readonly width: number;
  readonly height: number;

  constructor(levels: Float32Array, box: Box, width: number, height: number) {
    this.levels = levels;
    this.box = box;
    this.width = width;
    this.height = height;
  }

  /** uint8[height, width], 1 inside the object. */
  get array(): Uint8Array<ArrayBuffer> {
    return paste(this.levels, boxPixels(this.box, this.width, this.height), this.height, this.width);
  }

  /** COCO's compressed run lengths, as `pycocotools.mask` reads them. */
  get rle(): RunLengths {
    return encodeRunLengths(this.array, this.height, this.width);
  }
}

/**
 * Resize a decoded mask to its box and place it in the image.
 *
 * @param levels float32[side, side]. Values inside the object are positive.
 * @returns uint8[height, width], 1 inside the object.
 */
export function paste(levels: Float32Array, box: PixelBox, height: number, width: number): Uint8Array<ArrayBuffer> {
  const mask = new Uint8Array(height * width);
  const [left, top] = [Math.max(0, roundHalfEven(box[0])), Math.max(0, roundHalfEven(box[1]))];
  const [right, bottom] = [Math.min(width, roundHalfEven(box[2])), Math.min(height, roundHalfEven(box[3]))];
  if (right <= left || bottom <= top) return mask;
  const resized = resizeLevels(levels, Math.sqrt(levels.length), right - left, bottom - top);
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      if (resized[(row - top) * (right - left) + column - left]! > 0) mask[row * width + column] = 1;
    }
  }
  return mask;
}

/** Round like Python: a half to the even neighbour. */
function roundHalfEven(value: number): number {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
