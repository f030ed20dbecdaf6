/** PaliGemma from a bundle of ONNX graphs, in browsers and Node. */

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
