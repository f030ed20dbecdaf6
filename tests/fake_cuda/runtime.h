/* Declarations that the source files of libcudart share. */
#ifndef RUNTIME_H
#define RUNTIME_H

#include "fake_cuda.h"

int cudaGetDevice(int *device);

/* Store an error for cudaGetLastError, and return it. */
int record_error(int error);

#endif
