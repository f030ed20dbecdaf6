/* libcudart: allocation and copies. */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

enum { TO_DEVICE = 1, TO_HOST = 2, ON_DEVICE = 3 };

int cudaMalloc(void **pointer, size_t bytes)
{
    int device, error = fake_cuda_refuse_in_capture();
    if (error == OK)
        error = cudaGetDevice(&device);
    return record_error(error != OK ? error : fake_cuda_allocate(pointer, bytes, device));
}

int cudaFree(void *pointer)
{
    int error = fake_cuda_refuse_in_capture();
    return record_error(error != OK ? error : fake_cuda_release(pointer));
}

int cudaMallocFromPoolAsync(void **pointer, size_t bytes, void *pool, void *stream)
{
    (void)pool, (void)stream;
    return cudaMalloc(pointer, bytes);
}

int cudaFreeAsync(void *pointer, void *stream)
{
    (void)stream;
    return cudaFree(pointer);
}

int cudaHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
    (void)flags;
    *pointer = calloc(1, bytes > 0 ? bytes : 1);
    return *pointer == NULL ? record_error(OUT_OF_MEMORY) : OK;
}

int cudaMallocHost(void **pointer, size_t bytes)
{
    return cudaHostAlloc(pointer, bytes, 0);
}

int cudaFreeHost(void *pointer)
{
    free(pointer);
    return OK;
}

int cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    int device, error = cudaGetDevice(&device);
    if (error != OK)
        return error;
    *total_bytes = (size_t)fake_cuda_memory();
    *free_bytes = (size_t)(fake_cuda_memory() - fake_cuda_counts.live_bytes[device]);
    return OK;
}

/* Return an address that the host can access: of memory of a device, or of the host's memory itself. */
static void *accessible(const void *pointer)
{
    void *host_pointer = fake_cuda_host_pointer(pointer, NULL);
    return host_pointer == NULL ? (void *)pointer : host_pointer;
}

/* Count a copy, and return INVALID_VALUE if its kind does not fit the memory, as NVIDIA's library does. */
static int count_copy(const void *to, const void *from, size_t bytes, int kind)
{
    int to_device = fake_cuda_host_pointer(to, NULL) != NULL, from_device = fake_cuda_host_pointer(from, NULL) != NULL;
    if (bytes == 0)
        return OK;
    if (kind == TO_DEVICE && to_device && !from_device) {
        fake_cuda_counts.to_device++;
        fake_cuda_counts.to_device_bytes += (int64_t)bytes;
    } else if (kind == TO_HOST && from_device && !to_device) {
        fake_cuda_counts.to_host++;
        fake_cuda_counts.to_host_bytes += (int64_t)bytes;
    } else if (kind == ON_DEVICE && from_device && to_device) {
        fake_cuda_counts.on_device++;
        fake_cuda_counts.on_device_bytes += (int64_t)bytes;
    } else {
        return record_error(INVALID_VALUE);
    }
    return OK;
}

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream)
{
    int error = count_copy(to, from, bytes, kind);
    (void)stream;
    if (error == OK)
        memmove(accessible(to), accessible(from), bytes);
    return error;
}

int cudaMemcpy(void *to, const void *from, size_t bytes, int kind)
{
    int error = fake_cuda_refuse_in_capture();
    return error != OK ? error : cudaMemcpyAsync(to, from, bytes, kind, NULL);
}

int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                      size_t height, int kind, void *stream)
{
    int error = count_copy(to, from, width * height, kind);
    (void)stream;
    for (size_t row = 0; error == OK && row < height; row++)
        memmove((char *)accessible(to) + row * to_pitch, (char *)accessible(from) + row * from_pitch, width);
    return error;
}

/* Variables of kernels are zeros: no kernel has written them. */
int cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, int kind)
{
    (void)symbol, (void)offset, (void)kind;
    memset(accessible(to), 0, bytes);
    return OK;
}

int cudaMemset(void *to, int value, size_t bytes)
{
    memset(accessible(to), value, bytes);
    return fake_cuda_launch();
}

int cudaMemsetAsync(void *to, int value, size_t bytes, void *stream)
{
    (void)stream;
    return cudaMemset(to, value, bytes);
}

/* cudaPointerAttributes has 88 bytes; these are its first fields. */
struct pointer_attributes {
    int type, device;
    void *device_pointer, *host_pointer;
};

int cudaPointerGetAttributes(struct pointer_attributes *attributes, const void *pointer)
{
    int device = 0, on_device = fake_cuda_host_pointer(pointer, &device) != NULL;
    memset(attributes, 0, 88);
    attributes->type = on_device ? 2 : 0;     /* cudaMemoryTypeDevice or cudaMemoryTypeUnregistered */
    attributes->device = on_device ? device : -2; /* cudaInvalidDeviceId */
    attributes->device_pointer = on_device ? (void *)pointer : NULL;
    attributes->host_pointer = on_device ? NULL : (void *)pointer;
    return OK;
}

int cudaMemPoolCreate(void **pool, const void *properties)
{
    (void)properties;
    *pool = fake_cuda_handle();
    return OK;
}

int cudaMemPoolDestroy(void *pool)
{
    (void)pool;
    return OK;
}

int cudaMemPoolGetAttribute(void *pool, int attribute, uint64_t *value)
{
    (void)pool, (void)attribute;
    *value = 0;
    return OK;
}

int cudaMemPoolSetAttribute(void *pool, int attribute, void *value)
{
    (void)pool, (void)attribute, (void)value;
    return OK;
}

int cudaMemPoolTrimTo(void *pool, size_t bytes)
{
    (void)pool, (void)bytes;
    return OK;
}
