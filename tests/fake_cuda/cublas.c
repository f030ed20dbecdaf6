/* libcublas: matrix products are counted as launches. */
#include "fake_cuda.h"

#define LAUNCH(name) \
    int name(void) { return fake_cuda_launch(); }
#define SUCCEED(name) \
    int name(void) { return OK; }

int cublasCreate_v2(void **handle)
{
    *handle = fake_cuda_handle();
    return OK;
}

int cublasGetMathMode(void *handle, int *mode)
{
    (void)handle;
    *mode = 0;
    return OK;
}

const char *cublasGetStatusName(int status)
{
    (void)status;
    return "CUBLAS_STATUS_EXECUTION_FAILED";
}

const char *cublasGetStatusString(int status)
{
    (void)status;
    return "the GPU program failed to execute";
}

LAUNCH(cublasDgeam)
LAUNCH(cublasDgemmBatched)
LAUNCH(cublasDgemmStridedBatched)
LAUNCH(cublasDgemm_v2)
LAUNCH(cublasDgetrfBatched)
LAUNCH(cublasDgetriBatched)
LAUNCH(cublasGemmBatchedEx)
LAUNCH(cublasGemmEx)
LAUNCH(cublasGemmStridedBatchedEx)
LAUNCH(cublasScopy_v2)
LAUNCH(cublasSgeam)
LAUNCH(cublasSgemmBatched)
LAUNCH(cublasSgemmStridedBatched)
LAUNCH(cublasSgemm_v2)
LAUNCH(cublasSgetrfBatched)
LAUNCH(cublasSgetriBatched)
LAUNCH(cublasSscal_v2)
SUCCEED(cublasDestroy_v2)
SUCCEED(cublasSetMathMode)
SUCCEED(cublasSetStream_v2)
