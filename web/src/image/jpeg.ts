/** Read the metadata of a JPEG. Source: ITU-T T.81, annex B. */

import { latin1, type Metadata, type Patch, viewOf } from './encoded.js';

const APP1 = 0xe1;
const SOS = 0xda; // the data of the image begins; metadata stands before it
const EOI = 0xd9;
const EXIF = 'Exif\0\0';
const XMP = 'http://ns.adobe.com/xap/1.0/\0';
const HIDDEN = new Uint8Array(4); // in place of `Exif`: decoders skip APP1 segments of an unknown kind
const MAX_EXIF_BYTES = 1 << 20;

/**
 * Return the metadata of a JPEG.
 *
 * @throws {RangeError} The file ends within its segments.
 */
export function readJpegMetadata(file: Uint8Array): Metadata {
  const view = viewOf(file);
  let exif = '';
  let xmp = '';
  const hiding: Patch[] = [];
  let position = 2;
  for (;;) {
    while (view.getUint8(position) !== 0xff) position++;
    const marker = view.getUint8(position + 1);
    if (marker === 0xff || marker === 0) {
      position += marker === 0 ? 2 : 1; // FF before a marker is padding
      continue;
    }
    if (marker === SOS || marker === EOI) return { exif, xmp, animated: false, hiding };
    if (marker === 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {
      position += 2; // markers without a length
      continue;
    }
    const end = position + 2 + view.getUint16(position + 2);
    if (marker === APP1) {
      const body = latin1(file.subarray(position + 4, end));
      if (body.startsWith(EXIF)) hiding.push({ position: position + 4, bytes: HIDDEN });
      // Longer EXIF continues in another segment.
      if (body.startsWith(EXIF) && exif.length < MAX_EXIF_BYTES) exif += body.slice(EXIF.length);
      else if (body.startsWith(XMP)) xmp = body;
    }
    position = end;
  }
}
