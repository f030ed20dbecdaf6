/* libcublasLt: matrix products are counted as launches. */
#include "fake_cuda.h"

#include <string.h>

#define CREATE(name)                  \
    int name(void **handle)           \
    {                                 \
        *handle = fake_cuda_handle(); \
        return OK;                    \
    }
#define LAUNCH(name) \
    int name(void) { return fake_cuda_launch(); }
#define SUCCEED(name) \
    int name(void) { return OK; }

/* Return one cublasLtMatmulHeuristicResult_t of 96 zero bytes: success, algorithm 0. */
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d,
                                   void *preference, int requested, void *results, int *returned)
{
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)requested;
    memset(results, 0, 96);
    *returned = 1;
    return OK;
}

CREATE(cublasLtCreate)
CREATE(cublasLtMatmulDescCreate)
CREATE(cublasLtMatmulPreferenceCreate)
CREATE(cublasLtMatrixLayoutCreate)
CREATE(cublasLtMatrixTransformDescCreate)
LAUNCH(cublasLtMatmul)
LAUNCH(cublasLtMatrixTransform)
SUCCEED(cublasLtDestroy)
SUCCEED(cublasLtMatmulAlgoConfigSetAttribute)
SUCCEED(cublasLtMatmulAlgoInit)
SUCCEED(cublasLtMatmulDescDestroy)
SUCCEED(cublasLtMatmulDescSetAttribute)
SUCCEED(cublasLtMatmulPreferenceDestroy)
SUCCEED(cublasLtMatmulPreferenceSetAttribute)
SUCCEED(cublasLtMatrixLayoutDestroy)
SUCCEED(cublasLtMatrixLayoutSetAttribute)
SUCCEED(cublasLtMatrixTransformDescDestroy)
