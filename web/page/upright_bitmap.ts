/** Decoding of an image for the page, in the orientation in which the driver sees it. */

import { patchedBlob } from '../src/image/encoded.js';
import { turnOf } from '../src/image/exif.js';
import { readOrientation } from '../src/image/open.js';

/**
 * Return the first frame of an image, rotated or mirrored as EXIF or XMP require.
 *
 * Browsers differ in the formats whose orientation they apply, and boxes refer to the image that the driver sees.
 *
 * @throws {Error} The browser cannot decode the file.
 */
export async function uprightBitmap(file: Blob): Promise<ImageBitmap> {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const { orientation, hiding } = await readOrientation(bytes);
  const bitmap = await createImageBitmap(patchedBlob(file, bytes, hiding));
  if (orientation === null || orientation === 1) return bitmap;
  const { mirroredX, mirroredY, transposed } = turnOf(orientation);
  const { width, height } = bitmap;
  const canvas = transposed ? new OffscreenCanvas(height, width) : new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d');
  if (context === null) throw new Error('the image is too large for this browser');
  if (transposed) context.transform(0, 1, 1, 0, 0, 0); // swaps x and y
  context.transform(mirroredX ? -1 : 1, 0, 0, mirroredY ? -1 : 1, mirroredX ? width : 0, mirroredY ? height : 0);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.transferToImageBitmap();
}
