/**
 * Errors for the user. A message is one sentence that names the file or the option, and what to do.
 *
 * The classes and their exit codes are those of the Python driver.
 */

/** Base class of the errors that this package throws on purpose. */
export class PaliGemmaError extends Error {
  // Each class states its name, since a minifier renames classes.
  override readonly name: string = 'PaliGemmaError';
  /** Exit code for a command line. */
  readonly exitCode: number = 1;
}

/** An option has a value outside its range. */
export class OptionError extends PaliGemmaError {
  override readonly name: string = 'OptionError';
  override readonly exitCode: number = 2;
}

/** An image cannot be read or is not accepted. */
export class ImageError extends PaliGemmaError {
  override readonly name: string = 'ImageError';
  override readonly exitCode: number = 3;
}

/** A prompt cannot be tokenised or does not fit into the context. */
export class PromptError extends PaliGemmaError {
  override readonly name: string = 'PromptError';
  override readonly exitCode: number = 3;
}

/** The bundle's folder is incomplete, damaged, or differs from its manifest. */
export class BundleError extends PaliGemmaError {
  override readonly name: string = 'BundleError';
  override readonly exitCode: number = 4;
}

/** onnxruntime or the requested device is not available. */
export class ProviderError extends PaliGemmaError {
  override readonly name: string = 'ProviderError';
  override readonly exitCode: number = 4;
}

/** The graphs computed NaN or infinity. */
export class NumericsError extends BundleError {
  override readonly name = 'NumericsError';
}

/** Out of memory or storage. */
export class ResourceError extends PaliGemmaError {
  override readonly name: string = 'ResourceError';
  override readonly exitCode: number = 5;
}
