/* What the files of libcudart share. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include "fake_cuda.h"

int cudaGetDevice(int *device);

/* Keep an error for cudaGetLastError, and hand it on. */
int failed(int error);

#endif
