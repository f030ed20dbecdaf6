/* libcublasLt: matrix products are counted; any algorithm will do. */
#include "fake_cuda.h"

#include <string.h>

#define CREATE(name)                \
    int name(void **handle)         \
    {                               \
        *handle = fake_cuda_handle();  \
        return OK;                  \
    }
#define LAUNCH(name) \
    int name(void) { return fake_cuda_launch(); }
#define NOTHING(name) \
    int name(void) { return OK; }

/* One result, of the 96 bytes that one has. */
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d,
                                   void *preference, int wanted, void *results, int *found)
{
    (void)handle, (void)operation, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)wanted;
    memset(results, 0, 96);
    *found = 1;
    return OK;
}

CREATE(cublasLtCreate)
CREATE(cublasLtMatmulDescCreate)
CREATE(cublasLtMatmulPreferenceCreate)
CREATE(cublasLtMatrixLayoutCreate)
CREATE(cublasLtMatrixTransformDescCreate)
LAUNCH(cublasLtMatmul)
LAUNCH(cublasLtMatrixTransform)
NOTHING(cublasLtDestroy)
NOTHING(cublasLtMatmulAlgoConfigSetAttribute)
NOTHING(cublasLtMatmulAlgoInit)
NOTHING(cublasLtMatmulDescDestroy)
NOTHING(cublasLtMatmulDescSetAttribute)
NOTHING(cublasLtMatmulPreferenceDestroy)
NOTHING(cublasLtMatmulPreferenceSetAttribute)
NOTHING(cublasLtMatrixLayoutDestroy)
NOTHING(cublasLtMatrixLayoutSetAttribute)
NOTHING(cublasLtMatrixTransformDescDestroy)
