/** Load a bundle: read its files, check them, and open its graphs. */

import type { BundleFiles } from './bundle/files.js';
import { readManifest } from './bundle/manifest.js';
import type { Manifest } from './bundle/schema.js';
import { expectedFile, readWeightFiles } from './bundle/tensor_table.js';
import { OptionError, ProviderError } from './errors.js';
import { OnnxRunner } from './graphs/onnx_runner.js';
import type { ModelRunner } from './graphs/model_runner.js';
import { type Device, openSessions } from './graphs/open_sessions.js';
import { type Ort, isNative } from './graphs/ort.js';
import { type PromptTokenizer, loadTokenizer } from './text/tokenizer.js';

/** How far the files of a bundle are loaded. */
export interface LoadProgress {
  /** The file that loads. */
  readonly file: string;
  /** Bytes of this file so far, and in total. */
  readonly fileBytes: number;
  readonly fileSize: number;
  /** Bytes of all files so far, and in total. */
  readonly bytes: number;
  readonly size: number;
}

export interface LoadOptions {
  /** The module `onnxruntime-web/wasm`, `onnxruntime-web/webgpu` or `onnxruntime-node`. */
  readonly ort: Ort;
  /** `cpu` (default) or `webgpu`, which needs `onnxruntime-web/webgpu`. */
  readonly device?: Device;
  /**
   * Threads per operator on the CPU, 1 to 256. Default: onnxruntime's choice. In a browser more than one thread needs
   * a page that is cross-origin isolated.
   */
  readonly threads?: number;
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Stops loading. */
  readonly signal?: AbortSignal;
}

/** The parts of a loaded model. */
export interface Loaded {
  readonly manifest: Manifest;
  readonly tokenizer: PromptTokenizer;
  readonly runner: ModelRunner;
  readonly device: Device;
  /** Seconds that loading took. */
  readonly loadS: number;
}

/**
 * Load a bundle.
 *
 * @throws {OptionError} An option is outside its range.
 * @throws {BundleError} A file is missing or damaged, or belongs to another schema.
 * @throws {ProviderError} The device is not available.
 * @throws {ResourceError} Out of memory.
 */
export async function loadBundle(files: BundleFiles, options: LoadOptions): Promise<Loaded> {
  const started = performance.now();
  const { ort, device = 'cpu', threads, signal } = options;
  await checkOptions(options);
  const manifest = await readManifest(files, signal);
  if (!manifest.precision.devices.includes('cpu')) {
    throw new ProviderError(
      `${files.locate('manifest.json')}: precision ${manifest.precision.name} runs on CUDA only; export the ` +
        'checkpoint with a precision for CPUs, such as int4-portable',
    );
  }
  if (threads !== undefined && !isNative(ort)) ort.env.wasm.numThreads = threads;
  const onBytes = reporter(manifest, options.onProgress);
  const { file } = manifest.tokens;
  const content = await files.read(file, expectedFile(manifest, file), (bytes) => onBytes(file, bytes), signal);
  const tokenizer = loadTokenizer(new TextDecoder().decode(content), files.locate(file));
  const weights = await readWeightFiles(files, manifest, signal);
  const sessions = await openSessions(files, manifest, weights, { ort, device, threads, onBytes, signal });
  const runner = new OnnxRunner(ort, manifest, sessions);
  return { manifest, tokenizer, runner, device, loadS: (performance.now() - started) / 1000 };
}

async function checkOptions({ ort, device = 'cpu', threads }: LoadOptions): Promise<void> {
  if (ort?.InferenceSession === undefined) {
    throw new OptionError('ort must be the module onnxruntime-web/wasm, onnxruntime-web/webgpu or onnxruntime-node');
  }
  if (device !== 'cpu' && device !== 'webgpu') {
    throw new OptionError(`device is ${String(device)}, expected cpu or webgpu`);
  }
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 256)) {
    throw new OptionError(`threads is ${String(threads)}, expected 1 to 256`);
  }
  if (device === 'webgpu') {
    const { gpu } = (globalThis.navigator ?? {}) as { gpu?: { requestAdapter(): Promise<object | null> } };
    if ((await gpu?.requestAdapter()) == null) {
      throw new ProviderError('WebGPU is not available here; use the device cpu, or a browser with WebGPU');
    }
  }
}

/** Return a function that adds the bytes of a file to the progress. */
function reporter(manifest: Manifest, onProgress: LoadOptions['onProgress']): (file: string, bytes: number) => void {
  const size = [...manifest.files.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  const loaded = new Map<string, number>();
  return (file, fileBytes) => {
    loaded.set(file, fileBytes);
    const bytes = [...loaded.values()].reduce((sum, each) => sum + each, 0);
    onProgress?.({ file, fileBytes, fileSize: manifest.files.get(file)?.bytes ?? 0, bytes, size });
  };
}
