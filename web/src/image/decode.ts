/** Decode an encoded image with the browser's decoders. */

import { ImageError } from '../errors.js';
import type { Pixels } from './pixels.js';

/**
 * Decodes a file to its first frame, without converting it to another colour space. The file states no orientation;
 * the driver turns the image afterwards.
 */
export type Decoder = (file: Uint8Array, name: string) => Promise<Pixels>;

/**
 * Return the first frame of an encoded image.
 *
 * @param file The file.
 * @param name The file's name in messages.
 * @throws {ImageError} The browser cannot decode the file, or this is not a browser.
 */
export async function decodeInBrowser(file: Blob, name: string): Promise<Pixels> {
  if (typeof createImageBitmap !== 'function') {
    throw new ImageError(
      `${name} cannot be decoded: Node has no image decoder; decode it, for example with the npm package sharp, and ` +
        'give the pixels as { data, width, height }',
    );
  }
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { premultiplyAlpha: 'none', colorSpaceConversion: 'none' });
  } catch (error) {
    throw new ImageError(
      `${name} is truncated or damaged, or of a format that this browser cannot decode; get it again, or convert it ` +
        'to JPEG, PNG or WebP',
      { cause: error },
    );
  }
  try {
    return readPixels(bitmap);
  } finally {
    bitmap.close();
  }
}

function readPixels(bitmap: ImageBitmap): Pixels {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  if (context === null) throw new ImageError(`an image of ${width} x ${height} is too large for this browser`);
  // A canvas stores colours multiplied by alpha, rounded. Composited over white, every level and alpha give the same
  // result with and without this rounding.
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height);
}
