/**
 * Decoded pixels, and their conversion to RGB.
 *
 * Shapes: docs/notation.md.
 */

import { ImageError } from '../errors.js';

/** Pixels: Pillow's default of PIL.Image.MAX_IMAGE_PIXELS, a quarter of a GiB at 3 bytes per pixel. */
export const DEFAULT_MAX_PIXELS = Math.floor((1024 * 1024 * 1024) / 4 / 3);

/** Pixels. The longest screenshots of web pages have a tenth of it. */
const MAX_SIDE = 1_000_000;

/** Decoded pixels; an `ImageData` has this form. */
export interface Pixels {
  /**
   * uint8[height, width, channels], row by row: grey (1 channel), RGB (3), or RGB and alpha (4). Colours are not
   * multiplied by alpha.
   */
  readonly data: Uint8Array | Uint8ClampedArray;
  readonly width: number;
  readonly height: number;
}

/**
 * Check the number of pixels of an image.
 *
 * @throws {ImageError} The image is empty or larger than allowed.
 */
export function checkSize(width: number, height: number, maxPixels: number, name: string): void {
  if (!(width >= 1 && height >= 1)) {
    throw new ImageError(`${name} has no pixels: it is ${width} x ${height}; get it again, or save it anew`);
  }
  if (width * height > maxPixels) {
    throw new ImageError(
      `${name} is ${width} x ${height} = ${thousands(width * height)} pixels, over the cap of ` +
        `${thousands(maxPixels)}; make it smaller or raise maxImagePixels`,
    );
  }
  if (Math.max(width, height) > MAX_SIDE) {
    throw new ImageError(
      `${name} is ${width} x ${height}, no side may exceed ${thousands(MAX_SIDE)}; make it smaller`,
    );
  }
}

/**
 * Return an image as RGB: uint8[height, width, 3].
 *
 * Transparent pixels are composited over white, so the colour hidden under alpha 0 never shows.
 *
 * @param name The image's name in messages.
 * @throws {ImageError} `data` does not have 1, 3 or 4 bytes per pixel.
 */
export function toRgb(image: Pixels, name: string): Pixels {
  const { data, width, height } = image;
  const channels = data.length / (width * height);
  if (channels === 3) return image;
  if (channels !== 1 && channels !== 4) {
    throw new ImageError(
      `${name} has ${data.length} bytes for ${width} x ${height} pixels, expected 1 (grey), 3 (RGB) or 4 (RGB and ` +
        'alpha) per pixel',
    );
  }
  const rgb = new Uint8Array(3 * width * height);
  for (let source = 0, target = 0; target < rgb.length; source += channels, target += 3) {
    const alpha = channels === 4 ? data[source + 3]! : 255;
    for (let channel = 0; channel < 3; channel++) {
      const level = data[channels === 4 ? source + channel : source]!;
      rgb[target + channel] = alpha === 255 ? level : overWhite(level, alpha);
    }
  }
  return { data: rgb, width, height };
}

/** Return a level over white: round((level alpha + 255 (255 - alpha)) / 255), as Pillow's alpha_composite. */
function overWhite(level: number, alpha: number): number {
  return Math.round((level * alpha + 255 * (255 - alpha)) / 255);
}

function thousands(count: number): string {
  return count.toLocaleString('en-US');
}
