/** Strict reading of the orientation in EXIF and XMP, and its application to an image. */

import type { Pixels } from './pixels.js';

// CIPA DC-008 (EXIF 2.32), section 4.6.4: tag 0x0112 "Orientation", one SHORT, 1 to 8. Some programs write 0, which
// is reserved, or another whole number type. TIFF 6.0, section 2, has the numbers of the types.
const ORIENTATION_TAG = 0x0112;
const ENTRY_BYTES = 12; // TIFF 6.0, section 2: one entry of an image file directory
const LITTLE_ENDIAN = 'II*\0'; // TIFF 6.0, section 2: the image file header
const BIG_ENDIAN = 'MM\0*';
const PREFIX = 'Exif\0\0';
// XMP specification, part 2, section 3.2: the property may be an attribute or an element.
const XMP_ORIENTATION = /tiff:Orientation(?:\s*=\s*["']|>)\s*([0-9])/;

// Orientations whose rows or columns are read backwards, and those that turn rows into columns.
const MIRRORED_X = new Set([2, 3, 7, 8]);
const MIRRORED_Y = new Set([3, 4, 6, 7]);
const FIRST_TRANSPOSED = 5;

/** The EXIF block of an image is malformed. */
export class ExifError extends Error {}

/**
 * Return the orientation (1 to 8) in EXIF; if EXIF has none, the one in XMP; if XMP has none, 1.
 *
 * @param exif An EXIF block, one character per byte; it may begin with the prefix `Exif`. It may be empty.
 * @param xmp An XMP packet, one character per byte. It may be empty.
 * @throws {ExifError} The EXIF block is malformed.
 */
export function orientationOf(exif: string, xmp: string): number {
  const stated =
    exifOrientation(exif.startsWith(PREFIX) ? exif.slice(PREFIX.length) : exif) ??
    Number(XMP_ORIENTATION.exec(xmp)?.[1] ?? 1);
  return stated >= 1 && stated <= 8 ? stated : 1;
}

function exifOrientation(block: string): number | null {
  if (block === '') return null;
  const littleEndian = block.startsWith(LITTLE_ENDIAN);
  if (!littleEndian && !block.startsWith(BIG_ENDIAN)) throw new ExifError('no TIFF header');
  const view = new DataView(Uint8Array.from(block, (char) => char.charCodeAt(0)).buffer);
  try {
    const directory = view.getUint32(4, littleEndian);
    const entries = view.getUint16(directory, littleEndian);
    for (let index = 0; index < entries; index++) {
      const offset = directory + 2 + ENTRY_BYTES * index;
      if (offset + ENTRY_BYTES - 4 > view.byteLength) throw new RangeError('an entry is cut off');
      if (view.getUint16(offset, littleEndian) !== ORIENTATION_TAG) continue;
      const count = view.getUint32(offset + 4, littleEndian);
      const value = wholeNumber(view, offset + 8, view.getUint16(offset + 2, littleEndian), littleEndian);
      if (value === null || count !== 1) throw new ExifError('orientation is not one whole number');
      if (value < 0 || value > 8) throw new ExifError('orientation is not a number from 0 to 8');
      return value;
    }
  } catch (error) {
    if (error instanceof RangeError) throw new ExifError('directory is cut off', { cause: error });
    throw error;
  }
  return null;
}

/** Return a number of a type of TIFF: SHORT, LONG, SSHORT or SLONG; null for another type. */
function wholeNumber(view: DataView, offset: number, type: number, littleEndian: boolean): number | null {
  if (type === 3) return view.getUint16(offset, littleEndian);
  if (type === 4) return view.getUint32(offset, littleEndian);
  if (type === 8) return view.getInt16(offset, littleEndian);
  if (type === 9) return view.getInt32(offset, littleEndian);
  return null;
}

/** Return how an image must be mirrored, and whether its rows then become columns, for an orientation of 1 to 8. */
export function turnOf(stated: number): { mirroredX: boolean; mirroredY: boolean; transposed: boolean } {
  return {
    mirroredX: MIRRORED_X.has(stated),
    mirroredY: MIRRORED_Y.has(stated),
    transposed: stated >= FIRST_TRANSPOSED,
  };
}

/**
 * Return an image, rotated or mirrored as the stated orientation (1 to 8) requires.
 *
 * @param rgb uint8[height, width, 3], not modified.
 */
export function upright(rgb: Pixels, stated: number): Pixels {
  if (stated === 1) return rgb;
  const { data, width, height } = rgb;
  // The step in `data`, in pixels, from a pixel of the image to the next one in its row and in its column.
  const { mirroredX, mirroredY, transposed } = turnOf(stated);
  const stepX = mirroredX ? -1 : 1;
  const stepY = mirroredY ? -width : width;
  const origin = (stepX < 0 ? width - 1 : 0) + (stepY < 0 ? (height - 1) * width : 0);
  const [columns, rows] = transposed ? [height, width] : [width, height];
  const [alongRow, alongColumn] = transposed ? [stepY, stepX] : [stepX, stepY];
  const turned = new Uint8Array(data.length);
  let target = 0;
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const source = 3 * (origin + x * alongRow + y * alongColumn);
      turned[target] = data[source]!;
      turned[target + 1] = data[source + 1]!;
      turned[target + 2] = data[source + 2]!;
      target += 3;
    }
  }
  return { data: turned, width: columns, height: rows };
}
