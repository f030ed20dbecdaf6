/** The part of onnxruntime's JavaScript interface that the driver uses. */

import type {
  Env,
  InferenceSession,
  InferenceSessionFactory,
  Tensor,
  TensorConstructor,
  TensorFactory,
} from 'onnxruntime-common';

import { BundleError, type PaliGemmaError, ResourceError } from '../errors.js';

export type Session = InferenceSession;
export type OrtTensor = Tensor;

/** The module `onnxruntime-web`, `onnxruntime-web/wasm`, `onnxruntime-web/webgpu` or `onnxruntime-node`. */
export interface Ort {
  readonly InferenceSession: InferenceSessionFactory;
  readonly Tensor: TensorConstructor & TensorFactory;
  readonly env: Env;
}

/** Return whether a module is onnxruntime-node, whose tensors and graphs share memory. */
export function isNative(ort: Ort): boolean {
  return ort.env.versions.node !== undefined;
}

/** Return an int64 tensor. */
export function intTensor(ort: Ort, values: readonly number[], dims: readonly number[]): OrtTensor {
  return new ort.Tensor('int64', BigInt64Array.from(values, BigInt), dims);
}

/** Return a float32 tensor that shares the memory of `values`. */
export function floatTensor(ort: Ort, values: Float32Array, dims: readonly number[]): OrtTensor {
  return new ort.Tensor('float32', values, dims);
}

/**
 * Return the error of this package for an error of onnxruntime.
 *
 * @param file name of the graph.
 * @param action what failed, such as `open the graph`.
 * @param advice what to do, unless memory is short.
 */
export function ortError(file: string, action: string, error: unknown, advice: string): PaliGemmaError {
  const reason = (error instanceof Error ? error.message : String(error)).split('\n', 1)[0];
  // onnxruntime-web throws the address of a C++ exception, a number, if WebAssembly has no memory left.
  if (typeof error === 'number' || /bad_?\s?alloc|out of memory|allocat\w* fail|fail\w* to allocate/i.test(reason ?? ''))
    return new ResourceError(`${file}: out of memory (${reason}); close other programs, or use a smaller bundle`);
  return new BundleError(`${file}: onnxruntime cannot ${action} (${reason}); ${advice}`);
}
