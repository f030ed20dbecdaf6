/** Read the metadata of an encoded image that the driver uses, which browsers do not tell. */

import { latin1, type Metadata } from './encoded.js';
import { readJpegMetadata } from './jpeg.js';
import { readPngMetadata } from './png.js';
import { readWebpMetadata } from './webp.js';

const NONE: Metadata = { exif: '', xmp: '', animated: false, hiding: [] };

/** Return the metadata of a JPEG, PNG or WebP file; of other files, no metadata. */
export async function readMetadata(file: Uint8Array): Promise<Metadata> {
  const magic = latin1(file.subarray(0, 12));
  try {
    if (magic.startsWith('\xff\xd8\xff')) return readJpegMetadata(file);
    if (magic.startsWith('\x89PNG\r\n\x1a\n')) return await readPngMetadata(file);
    if (/^RIFF[^]{4}WEBP$/.test(magic)) return readWebpMetadata(file);
  } catch (error) {
    // The file ends too early: the decoder says so.
    if (!(error instanceof RangeError)) throw error;
  }
  return NONE;
}
