/* Declarations that the fake CUDA libraries share; see README.md.
 *
 * Numbers of errors are those of CUDA 13's headers. Functions of NVIDIA's libraries are declared with the arguments
 * that they use; in the calling convention of x86_64, arguments that a function does not declare are ignored.
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

enum { MAX_DEVICES = 8 };

/* Counters of this process. counts.py reads them by these names in this order. */
struct counts {
    int64_t launches, graph_launches, captures, captured_launches, mallocs, frees, synchronisations;
    int64_t to_device, to_device_bytes, to_host, to_host_bytes, on_device, on_device_bytes;
    int64_t live_bytes[MAX_DEVICES], peak_bytes[MAX_DEVICES];
};

extern struct counts fake_cuda_counts;

/* Return an integer environment variable, or a default. Variables are read at each call; README.md lists them. */
int64_t fake_cuda_knob(const char *name, int64_t default_value);
int fake_cuda_devices(void);
int64_t fake_cuda_memory(void);

/* Return OK, or the error that every use of a device gets: no device, or a driver that is too old. */
int fake_cuda_device_error(void);

/* Return OK, or an error if a graph is being captured. Synchronous allocations, copies and waits are not allowed during
 * a capture, in any thread (cudaStreamCaptureModeGlobal), and invalidate it. */
int fake_cuda_refuse_in_capture(void);

/* Count a kernel launch, and return the error that FAKE_CUDA_ERROR sets. */
int fake_cuda_launch(void);

/* Return a new handle, for objects that callers pass back without reading them. */
void *fake_cuda_handle(void);

/* Allocate and free zeroed memory of a device. The host cannot access it at the returned address; host_pointer returns
 * an address where it can, or NULL if the pointer is not in memory of a device. */
int fake_cuda_allocate(void **pointer, size_t bytes, int device);
int fake_cuda_release(void *pointer);
void *fake_cuda_host_pointer(const void *pointer, int *device);

#endif
