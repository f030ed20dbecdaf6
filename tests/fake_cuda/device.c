/* libcudart: devices, their properties, and the last error. */
#include "runtime.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct counts fake_cuda_counts;

static __thread int current, last;

int64_t fake_cuda_knob(const char *name, int64_t default_value)
{
    const char *text = getenv(name);
    return text == NULL ? default_value : atoll(text);
}

int fake_cuda_devices(void)
{
    int64_t devices = fake_cuda_knob("FAKE_CUDA_DEVICES", 1);
    return devices > MAX_DEVICES ? MAX_DEVICES : (int)devices;
}

int64_t fake_cuda_memory(void)
{
    return fake_cuda_knob("FAKE_CUDA_MEMORY", (int64_t)8 << 30);
}

int fake_cuda_device_error(void)
{
    if (fake_cuda_knob("FAKE_CUDA_DRIVER", 13000) < 13000)
        return INSUFFICIENT_DRIVER;
    return fake_cuda_devices() == 0 ? NO_DEVICE : OK;
}

/* The memory is never freed: few handles are made. */
void *fake_cuda_handle(void)
{
    return malloc(1);
}

int record_error(int error)
{
    if (error != OK)
        last = error;
    return error;
}

int cudaGetDeviceCount(int *count)
{
    *count = fake_cuda_device_error() == OK ? fake_cuda_devices() : 0;
    return record_error(fake_cuda_device_error());
}

int cudaSetDevice(int device)
{
    int error = fake_cuda_device_error();
    if (error == OK && (device < 0 || device >= fake_cuda_devices()))
        error = INVALID_DEVICE;
    if (error == OK)
        current = device;
    return record_error(error);
}

int cudaGetDevice(int *device)
{
    *device = current;
    return record_error(fake_cuda_device_error());
}

int cudaDeviceGetAttribute(int *value, int attribute, int device)
{
    static const struct {
        int attribute, value;
    } known[] = {
        {1, 1024},    /* maximum threads per block */
        {10, 32},     /* threads per warp */
        {16, 132},    /* multiprocessors */
        {39, 2048},   /* threads per multiprocessor */
        {81, 233472}, /* shared memory per multiprocessor */
        {97, 232448}, /* maximum shared memory per block (opt-in) */
        {115, 1},     /* memory pools are supported */
    };
    int compute = (int)fake_cuda_knob("FAKE_CUDA_COMPUTE", 90);
    (void)device;
    *value = attribute == 75 ? compute / 10 : attribute == 76 ? compute % 10 : 0;
    for (size_t index = 0; index < sizeof known / sizeof *known; index++)
        if (known[index].attribute == attribute)
            *value = known[index].value;
    return record_error(fake_cuda_device_error());
}

/* cudaDeviceProp has 1008 bytes in CUDA 13; these are the offsets of the fields that the provider reads. */
int cudaGetDeviceProperties(void *properties, int device)
{
    static const struct {
        size_t offset;
        int value;
    } known[] = {
        {296, 49152},     {304, 65536},    {308, 32},    {320, 1024},   {324, 1024},    {328, 1024},  {332, 64},
        {336, 2147483647}, {340, 65535},   {344, 65535}, {352, 65536},  {384, 132},     {588, 1},     {596, 52428800},
        {604, 2048},      {624, 233472},   {632, 65536}, {672, 232448}, {720, 1},
    };
    int64_t memory = fake_cuda_memory();
    int compute = (int)fake_cuda_knob("FAKE_CUDA_COMPUTE", 90), parts[] = {compute / 10, compute % 10};
    if (fake_cuda_device_error() != OK || device < 0 || device >= fake_cuda_devices())
        return record_error(fake_cuda_device_error() != OK ? fake_cuda_device_error() : INVALID_DEVICE);
    memset(properties, 0, 1008);
    strcpy(properties, "FakeCuda");
    memcpy((char *)properties + 288, &memory, sizeof memory);
    memcpy((char *)properties + 360, parts, sizeof parts);
    for (size_t index = 0; index < sizeof known / sizeof *known; index++)
        memcpy((char *)properties + known[index].offset, &known[index].value, sizeof known[index].value);
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
