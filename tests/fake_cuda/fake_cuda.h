/* A fake CUDA runtime: what is shared by the libraries that stand in for NVIDIA's.
 *
 * The engine's CUDA provider is real and runs on them: it opens sessions, places nodes, takes memory, copies and
 * captures graphs. Kernels are counted and not computed, so numbers mean nothing; memory of a device is memory
 * that the host may not touch, so what treats it as its own ends with SIGSEGV, as on a real one.
 *
 * Only what the provider calls is declared, with the numbers of CUDA 13's headers.
 */
#ifndef FAKE_CUDA_H
#define FAKE_CUDA_H

#include <stddef.h>
#include <stdint.h>

enum {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INSUFFICIENT_DRIVER = 35,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    NO_KERNEL_IMAGE = 209,
    SYMBOL_NOT_FOUND = 500,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

enum { MOST_DEVICES = 8 };

/* What has happened in this process; tests read it by these names (fake_cuda.py), in this order. */
struct counts {
    int64_t launches, graph_launches, captures, captured_launches, mallocs, frees, synchronisations;
    int64_t to_device, to_device_bytes, to_host, to_host_bytes, on_device, on_device_bytes;
    int64_t live_bytes[MOST_DEVICES], peak_bytes[MOST_DEVICES];
};

extern struct counts fake_cuda_counts;

/* Knobs, read from the environment at each call.
 *
 * FAKE_CUDA_DEVICES       how many devices there are; 1
 * FAKE_CUDA_MEMORY        bytes of each; 8 GiB
 * FAKE_CUDA_DRIVER        CUDA version of the driver, 1000 * major + 10 * minor; 13000
 * FAKE_CUDA_COMPUTE       compute capability, 10 * major + minor; 90
 * FAKE_CUDA_ERROR         error that each kernel launch ends with; 0
 * FAKE_CUDA_CAPTURE       microseconds that a capture takes longer; 0
 */
int64_t fake_cuda_knob(const char *name, int64_t otherwise);
int fake_cuda_devices(void);
int64_t fake_cuda_memory(void);

/* 0, or why nothing can be had of a device. */
int fake_cuda_trouble(void);

/* What a device is not asked for while a graph is captured, by any thread (cudaStreamCaptureModeGlobal): memory,
 * copies and waiting of the synchronous kind. 0, or the error that the asking gets, which spoils the capture. */
int fake_cuda_captured(void);

/* Count work on the device; a handle to hand out for it. */
int fake_cuda_launch(void);
void *fake_cuda_handle(void);

/* Memory of a device, zeros at first, and a way of the host to it: NULL where the pointer is none of a device. */
int fake_cuda_take(void **pointer, size_t bytes, int device);
int fake_cuda_give(void *pointer);
void *fake_cuda_reach(const void *pointer, int *device);

#endif
