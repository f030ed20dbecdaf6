/**
 * An image that was preprocessed for a bundle. Several requests can use it.
 *
 * Shapes: docs/notation.md.
 */

import { ImageError } from '../errors.js';
import { type ImageInput, openImage, type OpenOptions } from './open.js';
import { preprocess, type PreprocessingFacts } from './preprocess.js';

/** An opened and preprocessed image. */
export interface Picture {
  /** float32[3, S, S], resized to the bundle's side and normalised. */
  readonly pixels: Float32Array;
  /** Pixels of the opened image in its displayed orientation. */
  readonly width: number;
  /** Pixels of the opened image in its displayed orientation. */
  readonly height: number;
  /** Warnings about opening the image, one line per warning. */
  readonly warnings: readonly string[];
}

/**
 * Return an image, opened and preprocessed for a bundle. Return a `Picture` unchanged.
 *
 * @param facts Side, mean, standard deviation and rescale factor of the bundle's images.
 * @throws {ImageError} `openImage` refuses the source, or a `Picture` was opened for a bundle with another image
 * size.
 * @throws {OptionError} `options.maxPixels` is not a positive whole number.
 */
export async function openPicture(
  source: ImageInput | Picture,
  facts: PreprocessingFacts,
  options: OpenOptions = {},
): Promise<Picture> {
  if (isPicture(source)) {
    const side = Math.sqrt(source.pixels.length / 3);
    if (side !== facts.size) {
      throw new ImageError(
        `the image was opened for a bundle of ${side} pixels, this bundle has ${facts.size}; open it with this bundle`,
      );
    }
    return source;
  }
  const { rgb, warnings } = await openImage(source, options);
  return { pixels: preprocess(rgb, facts), width: rgb.width, height: rgb.height, warnings };
}

function isPicture(source: ImageInput | Picture): source is Picture {
  return (source as Partial<Picture> | null)?.pixels instanceof Float32Array;
}
