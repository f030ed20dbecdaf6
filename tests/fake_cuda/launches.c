/* libcudart: launches, streams, events and graphs. Launches are counted and do nothing, so streams need no queue. */
#include "runtime.h"

#include <string.h>
#include <unistd.h>

struct dim3 {
    unsigned x, y, z;
};

static int capturing, invalidated;

int fake_cuda_refuse_in_capture(void)
{
    invalidated |= capturing;
    return record_error(capturing ? CAPTURE_UNSUPPORTED : OK);
}

int fake_cuda_launch(void)
{
    int error = (int)fake_cuda_knob("FAKE_CUDA_ERROR", OK);
    fake_cuda_counts.launches++;
    fake_cuda_counts.captured_launches += capturing;
    return record_error(error);
}

int cudaLaunchKernel(const void *kernel, struct dim3 grid, struct dim3 block, void **arguments, size_t shared,
                     void *stream)
{
    (void)kernel, (void)grid, (void)block, (void)arguments, (void)shared, (void)stream;
    return fake_cuda_launch();
}

int __cudaLaunchKernel(void *kernel, struct dim3 grid, struct dim3 block, void **arguments, size_t shared,
                       void *stream)
{
    return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

int cudaLaunchCooperativeKernel(const void *kernel, struct dim3 grid, struct dim3 block, void **arguments,
                                size_t shared, void *stream)
{
    return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

int cudaLaunchKernelExC(const void *configuration, const void *kernel, void **arguments)
{
    (void)configuration, (void)kernel, (void)arguments;
    return fake_cuda_launch();
}

int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *argument)
{
    (void)stream;
    function(argument);
    return OK;
}

/* `kernel<<<grid, block>>>` pushes the launch configuration and the kernel's stub pops it. */
static __thread struct {
    struct dim3 grid, block;
    size_t shared;
    void *stream;
} pushed;

unsigned __cudaPushCallConfiguration(struct dim3 grid, struct dim3 block, size_t shared, void *stream)
{
    pushed.grid = grid;
    pushed.block = block;
    pushed.shared = shared;
    pushed.stream = stream;
    return 0;
}

int __cudaPopCallConfiguration(struct dim3 *grid, struct dim3 *block, size_t *shared, void **stream)
{
    *grid = pushed.grid;
    *block = pushed.block;
    *shared = pushed.shared;
    *stream = pushed.stream;
    return OK;
}

int __cudaGetKernel(const void **kernel, const void *function)
{
    *kernel = function;
    return OK;
}

void **__cudaRegisterFatBinary(void *binary)
{
    (void)binary;
    return fake_cuda_handle();
}

/* Called with arguments, which are ignored. */
void __cudaRegisterFatBinaryEnd(void) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
void __cudaUnregisterFatBinary(void) {}

/* cudaFuncAttributes has 144 bytes; the binary version is that of compute capability 9.0. */
int cudaFuncGetAttributes(void *attributes, const void *function)
{
    static const struct {
        size_t offset;
        int value;
    } known[] = {{24, 1024}, {32, 90}, {36, 90}};
    (void)function;
    memset(attributes, 0, 144);
    for (size_t index = 0; index < sizeof known / sizeof *known; index++)
        memcpy((char *)attributes + known[index].offset, &known[index].value, sizeof known[index].value);
    return OK;
}

int cudaFuncSetAttribute(const void *function, int attribute, int value)
{
    (void)function, (void)attribute, (void)value;
    return OK;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int size,
                                                           size_t shared, unsigned flags)
{
    (void)function, (void)size, (void)shared, (void)flags;
    *blocks = 1;
    return OK;
}

int cudaLibraryLoadData(void **library)
{
    *library = fake_cuda_handle();
    return OK;
}

int cudaLibraryGetKernel(void **kernel)
{
    *kernel = fake_cuda_handle();
    return OK;
}

int cudaLibraryUnload(void) { return OK; }
int cudaKernelSetAttributeForDevice(void) { return OK; }

/* Look up a function of the driver by its name: none is found, and the provider works without them. */
int cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, uint64_t flags, int *status)
{
    (void)name, (void)version, (void)flags;
    *function = NULL;
    if (status != NULL)
        *status = 1; /* cudaDriverEntryPointSymbolNotFound */
    return SYMBOL_NOT_FOUND;
}

int cudaDeviceSynchronize(void)
{
    fake_cuda_counts.synchronisations++;
    return fake_cuda_refuse_in_capture();
}

int cudaStreamSynchronize(void *stream)
{
    (void)stream;
    return cudaDeviceSynchronize();
}

int cudaStreamCreate(void **stream)
{
    *stream = fake_cuda_handle();
    return OK;
}

int cudaStreamCreateWithFlags(void **stream, unsigned flags)
{
    (void)flags;
    return cudaStreamCreate(stream);
}

int cudaStreamBeginCapture(void *stream, int mode)
{
    (void)stream, (void)mode;
    capturing = 1;
    invalidated = 0;
    fake_cuda_counts.captures++;
    usleep((unsigned)fake_cuda_knob("FAKE_CUDA_CAPTURE", 0));
    return OK;
}

int cudaStreamEndCapture(void *stream, void **graph)
{
    (void)stream;
    capturing = 0;
    *graph = fake_cuda_handle();
    return record_error(invalidated ? CAPTURE_INVALIDATED : OK);
}

int cudaStreamIsCapturing(void *stream, int *status)
{
    (void)stream;
    *status = capturing;
    return OK;
}

int cudaGraphInstantiate(void **executable, void *graph, uint64_t flags)
{
    (void)graph, (void)flags;
    *executable = fake_cuda_handle();
    return OK;
}

int cudaGraphLaunch(void *executable, void *stream)
{
    (void)executable, (void)stream;
    fake_cuda_counts.graph_launches++;
    return OK;
}

int cudaEventCreate(void **event)
{
    *event = fake_cuda_handle();
    return OK;
}

int cudaEventCreateWithFlags(void **event, unsigned flags)
{
    (void)flags;
    return cudaEventCreate(event);
}

int cudaEventElapsedTime(float *milliseconds, void *begin, void *end)
{
    (void)begin, (void)end;
    *milliseconds = 1;
    return OK;
}

int cudaEventDestroy(void) { return OK; }
int cudaEventRecord(void) { return OK; }
int cudaEventRecordWithFlags(void) { return OK; }
int cudaEventSynchronize(void) { return OK; }
int cudaGraphDestroy(void) { return OK; }
int cudaGraphExecDestroy(void) { return OK; }
int cudaStreamDestroy(void) { return OK; }
int cudaStreamWaitEvent(void) { return OK; }
