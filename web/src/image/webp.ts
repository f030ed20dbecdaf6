/** Read the metadata of a WebP file. Source: RFC 9649, section 2. */

import { latin1, type Metadata, type Patch, viewOf } from './encoded.js';

const HEADER_BYTES = 12; // RIFF, the length of the rest, WEBP
const HIDDEN = Uint8Array.of(0x58, 0x58, 0x58, 0x58); // XXXX in place of EXIF: decoders skip unknown chunks
const MAX_METADATA_BYTES = 1 << 20; // of a chunk

/**
 * Return the metadata of a WebP file.
 *
 * @throws {RangeError} The file ends within its header.
 */
export function readWebpMetadata(file: Uint8Array): Metadata {
  const view = viewOf(file);
  const end = Math.min(file.length, view.getUint32(4, true) + 8);
  const found = { 'EXIF': '', 'XMP ': '' };
  const hiding: Patch[] = [];
  let frames = 0;
  for (let position = HEADER_BYTES; position + 8 <= end; ) {
    const chunk = latin1(file.subarray(position, position + 4));
    const length = view.getUint32(position + 4, true);
    const isMetadata = chunk === 'EXIF' || chunk === 'XMP ';
    if (isMetadata && found[chunk] === '' && length <= MAX_METADATA_BYTES) {
      found[chunk] = latin1(file.subarray(position + 8, position + 8 + length));
    }
    if (chunk === 'EXIF') hiding.push({ position, bytes: HIDDEN });
    if (chunk === 'ANMF') frames++;
    position += 8 + length + (length % 2);
  }
  return { exif: found.EXIF, xmp: found['XMP '], animated: frames > 1, hiding };
}
