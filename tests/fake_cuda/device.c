/* libcudart: the devices there are, what they can do, and what went wrong last. */
#include "runtime.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct counts fake_cuda_counts;

static __thread int current, last;

int64_t fake_cuda_knob(const char *name, int64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL ? otherwise : atoll(text);
}

int fake_cuda_devices(void)
{
    int64_t wanted = fake_cuda_knob("FAKE_CUDA_DEVICES", 1);
    return wanted > MOST_DEVICES ? MOST_DEVICES : (int)wanted;
}

int64_t fake_cuda_memory(void)
{
    return fake_cuda_knob("FAKE_CUDA_MEMORY", (int64_t)8 << 30);
}

int fake_cuda_trouble(void)
{
    if (fake_cuda_knob("FAKE_CUDA_DRIVER", 13000) < 13000)
        return INSUFFICIENT_DRIVER;
    return fake_cuda_devices() == 0 ? NO_DEVICE : OK;
}

/* Something that is not NULL; nobody looks into it, and few are made. */
void *fake_cuda_handle(void)
{
    return malloc(1);
}

int failed(int error)
{
    if (error != OK)
        last = error;
    return error;
}

int cudaGetDeviceCount(int *count)
{
    *count = fake_cuda_trouble() == OK ? fake_cuda_devices() : 0;
    return failed(fake_cuda_trouble());
}

int cudaSetDevice(int device)
{
    int error = fake_cuda_trouble();
    if (error == OK && (device < 0 || device >= fake_cuda_devices()))
        error = INVALID_DEVICE;
    if (error == OK)
        current = device;
    return failed(error);
}

int cudaGetDevice(int *device)
{
    *device = current;
    return failed(fake_cuda_trouble());
}

int cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    static const struct {
        int attribute, value;
    } known[] = {
        {1, 1024},    /* most threads of a block */
        {10, 32},     /* threads of a warp */
        {16, 132},    /* multiprocessors */
        {39, 2048},   /* threads of a multiprocessor */
        {81, 233472}, /* shared memory of a multiprocessor */
        {97, 232448}, /* shared memory of a block that asks for it */
        {115, 1},     /* memory pools */
    };
    int compute = (int)fake_cuda_knob("FAKE_CUDA_COMPUTE", 90);
    (void)device;
    *value = attribute == 75 ? compute / 10 : attribute == 76 ? compute % 10 : 0;
    for (size_t index = 0; index < sizeof known / sizeof *known; index++)
        if (known[index].attribute == attribute)
            *value = known[index].value;
    return failed(fake_cuda_trouble());
}

/* cudaDeviceProp has 1008 bytes; these are the places of what the provider reads. */
int cudaGetDeviceProperties(void *properties, int device)
{
    static const struct {
        size_t place;
        int value;
    } known[] = {
        {296, 49152},     {304, 65536},    {308, 32},    {320, 1024},   {324, 1024},    {328, 1024},  {332, 64},
        {336, 2147483647}, {340, 65535},   {344, 65535}, {352, 65536},  {384, 132},     {588, 1},     {596, 52428800},
        {604, 2048},      {624, 233472},   {632, 65536}, {672, 232448}, {720, 1},
    };
    int64_t memory = fake_cuda_memory();
    int compute = (int)fake_cuda_knob("FAKE_CUDA_COMPUTE", 90), parts[] = {compute / 10, compute % 10};
    if (fake_cuda_trouble() != OK || device < 0 || device >= fake_cuda_devices())
        return failed(fake_cuda_trouble() != OK ? fake_cuda_trouble() : INVALID_DEVICE);
    memset(properties, 0, 1008);
    strcpy(properties, "FakeCuda");
    memcpy((char *)properties + 288, &memory, sizeof memory);
    memcpy((char *)properties + 360, parts, sizeof parts);
    for (size_t index = 0; index < sizeof known / sizeof *known; index++)
        memcpy((char *)properties + known[index].place, &known[index].value, sizeof known[index].value);
    return OK;
}

int cudaDriverGetVersion(int *version)
{
    *version = (int)fake_cuda_knob("FAKE_CUDA_DRIVER", 13000);
    return OK;
}

int cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return OK;
}

const char *cudaGetErrorName(int error)
{
    switch (error) {
    case OK: return "cudaSuccess";
    case INVALID_VALUE: return "cudaErrorInvalidValue";
    case OUT_OF_MEMORY: return "cudaErrorMemoryAllocation";
    case INSUFFICIENT_DRIVER: return "cudaErrorInsufficientDriver";
    case NO_DEVICE: return "cudaErrorNoDevice";
    case INVALID_DEVICE: return "cudaErrorInvalidDevice";
    case NO_KERNEL_IMAGE: return "cudaErrorNoKernelImageForDevice";
    default: return "cudaErrorUnknown";
    }
}

const char *cudaGetErrorString(int error)
{
    switch (error) {
    case OK: return "no error";
    case INVALID_VALUE: return "invalid argument";
    case OUT_OF_MEMORY: return "out of memory";
    case INSUFFICIENT_DRIVER: return "CUDA driver version is insufficient for CUDA runtime version";
    case NO_DEVICE: return "no CUDA-capable device is detected";
    case INVALID_DEVICE: return "invalid device ordinal";
    case NO_KERNEL_IMAGE: return "no kernel image is available for execution on the device";
    default: return "unknown error";
    }
}

int cudaGetLastError(void)
{
    int error = last;
    last = OK;
    return error;
}

int cudaPeekAtLastError(void)
{
    return last;
}
