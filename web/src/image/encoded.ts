/** The bytes of an encoded image, and what is read from them. */

/** Bytes of EXIF or XMP, one character per byte. */
export interface Metadata {
  readonly exif: string;
  readonly xmp: string;
  /** Whether the file has more frames than one. */
  readonly animated: boolean;
}

/** Return bytes as text, one character per byte. */
export function latin1(bytes: Uint8Array): string {
  let text = '';
  // A call takes a limited number of arguments.
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return text;
}

/** Return a view of bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
