/**
 * Open an image from a file, bytes or pixels, as RGB in its displayed orientation.
 *
 * Shapes: docs/notation.md.
 */

import { ImageError, OptionError } from '../errors.js';
import { type Decoder, decodeInBrowser } from './decode.js';
import { type Metadata, patched, patchedBlob } from './encoded.js';
import { ExifError, orientationOf, upright } from './exif.js';
import { readMetadata } from './metadata.js';
import { checkSize, DEFAULT_MAX_PIXELS, type Pixels, toRgb } from './pixels.js';

/** A file such as a `File` of a web page, the bytes of a file, or decoded pixels such as an `ImageData`. */
export type ImageInput = Blob | Uint8Array | Pixels;

/** An image in its displayed orientation, and the warnings that arose when it was opened. */
export interface OpenedImage {
  /** uint8[height, width, 3] */
  readonly rgb: Pixels;
  /** One line each. */
  readonly warnings: readonly string[];
}

/** Options of `openImage`. */
export interface OpenOptions {
  /** Cap on width times height, at least 1. */
  readonly maxPixels?: number;
  /** Decodes files. Default: the browser's decoders. */
  readonly decode?: Decoder;
}

/**
 * Open the first frame of an image; `source` is not modified. The EXIF orientation of a file is applied.
 *
 * @throws {ImageError} The image is damaged, larger than `maxPixels`, or of a form that is not accepted.
 * @throws {OptionError} `maxPixels` is not a positive whole number.
 */
export async function openImage(source: ImageInput, options: OpenOptions = {}): Promise<OpenedImage> {
  const { maxPixels = DEFAULT_MAX_PIXELS, decode } = options;
  if (!(Number.isInteger(maxPixels) && maxPixels >= 1)) {
    throw new OptionError(
      `maxImagePixels is ${String(maxPixels)}, expected a whole number of at least 1`,
    );
  }
  const name = nameOf(source);
  if (isPixels(source)) return { rgb: checkedRgb(source, maxPixels, name), warnings: [] };
  const file = source instanceof Uint8Array ? source : new Uint8Array(await source.arrayBuffer());
  if (file.length === 0) throw new ImageError(`${name} is empty; get it again`);
  const { orientation, animated, hiding } = await readOrientation(file);
  const warnings = animated ? [`${name} is animated: only its first frame is used`] : [];
  if (orientation === null)
    warnings.push(`${name} has malformed EXIF data: it is ignored, the image is taken as upright`);
  // Browsers differ in whether they turn the image, by format, too.
  const pixels =
    decode === undefined
      ? await decodeInBrowser(patchedBlob(source, file, hiding), name)
      : await decode(patched(file, hiding), name);
  return { rgb: upright(checkedRgb(pixels, maxPixels, name), orientation ?? 1), warnings };
}

/** Return the metadata of a file, and the orientation (1 to 8) that it states; null: its EXIF data is malformed. */
export async function readOrientation(file: Uint8Array): Promise<Metadata & { readonly orientation: number | null }> {
  const metadata = await readMetadata(file);
  try {
    return { ...metadata, orientation: orientationOf(metadata.exif, metadata.xmp) };
  } catch (error) {
    if (!(error instanceof ExifError)) throw error;
    return { ...metadata, orientation: null };
  }
}

function checkedRgb(pixels: Pixels, maxPixels: number, name: string): Pixels {
  checkSize(pixels.width, pixels.height, maxPixels, name);
  return toRgb(pixels, name);
}

/** Return the name of the source for messages. */
function nameOf(source: ImageInput): string {
  if (source instanceof Uint8Array) return `the image of ${source.length} bytes`;
  if (source instanceof Blob) return source instanceof File && source.name !== '' ? source.name : 'the image';
  if (isPixels(source)) return 'the image';
  throw new ImageError(
    'an image must be a Blob such as a File, a Uint8Array with the bytes of a file, or pixels: an object with data ' +
      '(Uint8Array or Uint8ClampedArray), width and height',
  );
}

function isPixels(source: ImageInput): source is Pixels {
  const { data, width, height } = (source ?? {}) as Partial<Pixels>;
  return (
    (data instanceof Uint8Array || data instanceof Uint8ClampedArray) &&
    Number.isInteger(width) &&
    Number.isInteger(height)
  );
}
