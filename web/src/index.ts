/** PaliGemma from a bundle of ONNX graphs, in browsers and Node. */

export type { BundleFiles } from './bundle/files.js';
export { localFiles } from './bundle/local_files.js';
export type { Manifest } from './bundle/schema.js';
export { urlFiles } from './bundle/url_files.js';
export { type Detection, type Detections, objectsAsJson } from './detection/detections.js';
export type { Mask } from './detection/masks.js';
export type { Box, PixelBox } from './detection/parsing.js';
export {
  BundleError,
  ImageError,
  NumericsError,
  OptionError,
  PaliGemmaError,
  PromptError,
  ProviderError,
  ResourceError,
} from './errors.js';
export type { Stream } from './generation/stream.js';
export type { FinishReason, Generation, Options, Timings } from './generation/types.js';
export type { Decoder } from './image/decode.js';
export type { ImageInput } from './image/open.js';
export type { Picture } from './image/picture.js';
export type { LoadOptions, LoadProgress } from './load.js';
export { type Images, PaliGemma } from './paligemma.js';
