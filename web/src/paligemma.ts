/**
 * Public interface: load a bundle, then ask about images.
 *
 *     import * as ort from 'onnxruntime-web/wasm';
 *     const model = await PaliGemma.load('/bundle/', { ort });
 *     console.log((await model.generate(file, 'caption en')).text);
 *     for await (const piece of await model.stream(file, 'describe en')) output.append(piece);
 */

import type { BundleFiles } from './bundle/files.js';
import type { Manifest } from './bundle/schema.js';
import { urlFiles } from './bundle/url_files.js';
import { type Detections, detections } from './detection/detections.js';
import { type Task, taskPrompt } from './detection/prompts.js';
import { BundleError } from './errors.js';
import { planRequest, resultOf } from './generation/plan.js';
import { runRequest } from './generation/run.js';
import { Stream } from './generation/stream.js';
import type { Generation, Options } from './generation/types.js';
import type { ModelRunner } from './graphs/model_runner.js';
import { NO_MASK_DECODER } from './graphs/onnx_runner.js';
import type { Decoder } from './image/decode.js';
import type { ImageInput } from './image/open.js';
import { type Picture, openPicture } from './image/picture.js';
import { type LoadOptions, type Loaded, loadBundle } from './load.js';
import type { PromptTokenizer } from './text/tokenizer.js';

/** An image, or several in reading order. */
export type Images = ImageInput | Picture | readonly (ImageInput | Picture)[];

/** A loaded bundle. Requests may overlap; their graphs run one after another. */
export class PaliGemma {
  /** Facts of the bundle, from its manifest.json. */
  readonly manifest: Manifest;
  readonly tokenizer: PromptTokenizer;
  /** The open graphs. */
  readonly runner: ModelRunner;
  /** `cpu` or `webgpu`. */
  readonly device: string;
  /** Seconds that loading took. */
  readonly loadS: number;
  readonly #decode: Decoder | undefined;

  /** Combine the parts of a model. To load a bundle, use `PaliGemma.load`. */
  constructor(loaded: Loaded, decode?: Decoder) {
    this.manifest = loaded.manifest;
    this.tokenizer = loaded.tokenizer;
    this.runner = loaded.runner;
    this.device = loaded.device;
    this.loadS = loaded.loadS;
    this.#decode = decode;
  }

  /**
   * Load a bundle. Every file is compared with its hash while it loads.
   *
   * @param source URL of the bundle's folder, or the result of `urlFiles`, `localFiles` or, in Node, `folderFiles`.
   * @param options `decode` replaces the browser's decoders of image files.
   * @throws {OptionError} An option is outside its range.
   * @throws {BundleError} A file is missing, cut or altered, or the bundle has another schema.
   * @throws {ProviderError} The device is not available.
   * @throws {ResourceError} Out of memory.
   */
  static async load(
    source: string | URL | BundleFiles,
    options: LoadOptions & { readonly decode?: Decoder },
  ): Promise<PaliGemma> {
    const files = typeof source === 'string' || source instanceof URL ? urlFiles(source) : source;
    return new PaliGemma(await loadBundle(files, options), options.decode);
  }

  /**
   * Return an opened and preprocessed image, for several requests.
   *
   * @param image A file such as a `File` of a web page, the bytes of a file, or pixels such as an `ImageData`. The
   *   EXIF orientation is applied. Node has no decoders: give pixels there, or the option `decode` of `load`.
   * @param maxImagePixels Cap on width times height, at least 1. Default 89,478,485.
   * @throws {ImageError} The image cannot be read or is not accepted.
   */
  open(image: ImageInput | Picture, maxImagePixels?: number): Promise<Picture> {
    return openPicture(image, this.manifest.image, {
      ...(maxImagePixels !== undefined && { maxPixels: maxImagePixels }),
      ...(this.#decode !== undefined && { decode: this.#decode }),
    });
  }

  /**
   * Generate the answer to a prompt about one image, or several in reading order.
   *
   * @param images An image as for `open`, a `Picture`, or an array of these.
   * @param prompt Text in the form that PaliGemma was trained with, such as `answer en QUESTION`; it may be empty.
   * @param options See `Options`. Decoding is greedy by default.
   * @returns The answer. After a cancellation, the answer has the tokens generated so far.
   * @throws {ImageError} An image cannot be read or is not accepted.
   * @throws {PromptError} The prompt is not accepted, or does not fit into the context.
   * @throws {OptionError} An option is unknown or outside its range.
   * @throws {NumericsError} The graphs computed NaN or infinity.
   * @throws {ResourceError} Out of memory.
   */
  async generate(images: Images, prompt: string, options: Options = {}): Promise<Generation> {
    const stream = await this.stream(images, prompt, options);
    for await (const _ of stream);
    return stream.result;
  }

  /**
   * Generate an answer piece by piece. This call checks images and prompt; iteration runs the graphs.
   *
   * Arguments and errors are those of `generate`.
   */
  async stream(images: Images, prompt: string, options: Options = {}): Promise<Stream> {
    const { manifest, tokenizer, runner } = this;
    const sources: readonly (ImageInput | Picture)[] = Array.isArray(images) ? images : [images];
    const request = planRequest(sources.length, prompt, options, manifest, tokenizer);
    const pictures: Picture[] = [];
    for (const source of sources) pictures.push(await this.open(source, options.maxImagePixels));
    request.warnings.push(...new Set(pictures.flatMap(({ warnings }) => warnings)));
    const pixels = pictures.map((picture) => picture.pixels);
    const pieces = runRequest(request, pixels, runner, tokenizer.locationIds);
    return new Stream(pieces, () => resultOf(request, manifest, tokenizer, this.device, this.loadS));
  }

  /**
   * Detect objects in an image.
   *
   * @param image As for `open`.
   * @param labels Objects to detect: `"cat ; dog"`, `["cat", "dog"]` or the prompt `"detect cat ; dog"`.
   * @param options See `Options`. With `constrained: true` the answer always consists of valid objects.
   * @returns The objects with their boxes. Parts of the answer that are not objects are in `warnings`.
   * @throws {PromptError} No label is given, or a label is not text.
   */
  detect(image: ImageInput | Picture, labels: string | readonly string[], options: Options = {}): Promise<Detections> {
    return this.#detect('detect', image, labels, options);
  }

  /**
   * Detect objects in an image and decode the mask of each object.
   *
   * Arguments and errors are those of `detect`.
   *
   * @throws {BundleError} The bundle has no mask decoder.
   */
  async segment(
    image: ImageInput | Picture,
    labels: string | readonly string[],
    options: Options = {},
  ): Promise<Detections> {
    if (this.manifest.graphs.maskDecoder === undefined) throw new BundleError(NO_MASK_DECODER);
    return this.#detect('segment', image, labels, options);
  }

  /** Close the graphs and free their memory. */
  close(): Promise<void> {
    return this.runner.close();
  }

  async #detect(
    task: Task,
    image: ImageInput | Picture,
    labels: string | readonly string[],
    options: Options,
  ): Promise<Detections> {
    const prompt = taskPrompt(task, labels);
    const picture = await this.open(image, options.maxImagePixels);
    const generation = await this.generate(picture, prompt, { ...options, logprobs: true }); // for the scores
    return detections(generation, picture.width, picture.height, this.runner, this.tokenizer, task === 'segment');
  }
}
