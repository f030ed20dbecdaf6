/* libcuda: the driver's functions that runtime/engine/nvidia_driver.py calls. */
#include "fake_cuda.h"

#include <stdio.h>

int cuInit(unsigned flags)
{
    (void)flags;
    return fake_cuda_devices() == 0 ? NO_DEVICE : OK;
}

int cuDriverGetVersion(int *version)
{
    *version = (int)fake_cuda_knob("FAKE_CUDA_DRIVER", 13000);
    return OK;
}

int cuDeviceGetCount(int *count)
{
    *count = fake_cuda_devices();
    return OK;
}

int cuDeviceGet(int *device, int index)
{
    *device = index;
    return index < fake_cuda_devices() ? OK : INVALID_DEVICE;
}

int cuDeviceGetName(char *name, int size, int device)
{
    snprintf(name, (size_t)size, "FakeCuda %d", device);
    return OK;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    (void)device;
    *bytes = (size_t)fake_cuda_memory();
    return OK;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    int compute = (int)fake_cuda_knob("FAKE_CUDA_COMPUTE", 90);
    (void)device;
    *value = attribute == 75 ? compute / 10 : attribute == 76 ? compute % 10 : 0;
    return OK;
}

int cuGetErrorName(int error, const char **name)
{
    *name = error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
    return OK;
}

/* Used by kernels for Hopper. */
int cuTensorMapEncodeTiled(void)
{
    return SYMBOL_NOT_FOUND;
}
