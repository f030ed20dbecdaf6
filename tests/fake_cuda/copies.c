/* libcudart: memory is taken, copied and given back. */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

enum { TO_DEVICE = 1, TO_HOST = 2, ON_DEVICE = 3 };

int cudaMalloc(void **pointer, size_t bytes)
{
    int device, error = fake_cuda_captured();
    if (error == OK)
        error = cudaGetDevice(&device);
    return failed(error != OK ? error : fake_cuda_take(pointer, bytes, device));
}

int cudaFree(void *pointer)
{
    int error = fake_cuda_captured();
    return failed(error != OK ? error : fake_cuda_give(pointer));
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
    return *pointer == NULL ? failed(OUT_OF_MEMORY) : OK;
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

int cudaMemGetInfo(size_t *unused, size_t *all)
{
    int device, error = cudaGetDevice(&device);
    if (error != OK)
        return error;
    *all = (size_t)fake_cuda_memory();
    *unused = (size_t)(fake_cuda_memory() - fake_cuda_counts.live_bytes[device]);
    return OK;
}

/* Where a copy goes or comes from; the host's own memory is what it is. */
static void *reach(const void *pointer)
{
    void *found = fake_cuda_reach(pointer, NULL);
    return found == NULL ? (void *)pointer : found;
}

/* A copy whose kind says device where the memory is the host's is refused, as on a real one. */
static int counted(const void *to, const void *from, size_t bytes, int kind)
{
    int to_device = fake_cuda_reach(to, NULL) != NULL, from_device = fake_cuda_reach(from, NULL) != NULL;
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
        return failed(INVALID_VALUE);
    }
    return OK;
}

int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream)
{
    int error = counted(to, from, bytes, kind);
    (void)stream;
    if (error == OK)
        memmove(reach(to), reach(from), bytes);
    return error;
}

int cudaMemcpy(void *to, const void *from, size_t bytes, int kind)
{
    int error = fake_cuda_captured();
    return error != OK ? error : cudaMemcpyAsync(to, from, bytes, kind, NULL);
}

int cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width,
                      size_t height, int kind, void *stream)
{
    int error = counted(to, from, width * height, kind);
    (void)stream;
    for (size_t row = 0; error == OK && row < height; row++)
        memmove((char *)reach(to) + row * to_pitch, (char *)reach(from) + row * from_pitch, width);
    return error;
}

/* A variable of a kernel's, which nothing has written. */
int cudaMemcpyFromSymbol(void *to, const void *symbol, size_t bytes, size_t offset, int kind)
{
    (void)symbol, (void)offset, (void)kind;
    memset(reach(to), 0, bytes);
    return OK;
}

int cudaMemset(void *to, int value, size_t bytes)
{
    memset(reach(to), value, bytes);
    return fake_cuda_launch();
}

int cudaMemsetAsync(void *to, int value, size_t bytes, void *stream)
{
    (void)stream;
    return cudaMemset(to, value, bytes);
}

/* 88 bytes, of which these are the first. */
struct pointer_attributes {
    int kind, device;
    void *of_device, *of_host;
};

int cudaPointerGetAttributes(struct pointer_attributes *found, const void *pointer)
{
    int device = 0, of_device = fake_cuda_reach(pointer, &device) != NULL;
    memset(found, 0, 88);
    found->kind = of_device ? 2 : 0;
    found->device = of_device ? device : -2;
    found->of_device = of_device ? (void *)pointer : NULL;
    found->of_host = of_device ? NULL : (void *)pointer;
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
