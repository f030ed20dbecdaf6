/* Memory of devices. Each block is mapped twice: at the device's address without access, so that the host gets
 * SIGSEGV as on a machine with a GPU, and at an address with access, for copies. */
#define _GNU_SOURCE
#include "fake_cuda.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct block {
    char *device_pointer, *host_pointer;
    size_t bytes;
    int device;
    struct block *next;
};

static struct block *blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct block *create_block(size_t bytes, int device)
{
    struct block *block = malloc(sizeof *block);
    int file = memfd_create("fake_cuda", MFD_CLOEXEC);
    if (block == NULL || file < 0 || ftruncate(file, (off_t)bytes) != 0)
        abort();
    block->bytes = bytes;
    block->device = device;
    block->device_pointer = mmap(NULL, bytes, PROT_NONE, MAP_SHARED, file, 0);
    block->host_pointer = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (block->device_pointer == MAP_FAILED || block->host_pointer == MAP_FAILED)
        abort();
    close(file);
    return block;
}

int fake_cuda_allocate(void **pointer, size_t bytes, int device)
{
    int64_t *live = &fake_cuda_counts.live_bytes[device], *peak = &fake_cuda_counts.peak_bytes[device];
    struct block *block;
    *pointer = NULL;
    if (bytes == 0)
        return OK;
    pthread_mutex_lock(&lock);
    if ((int64_t)bytes > fake_cuda_memory() - *live) {
        pthread_mutex_unlock(&lock);
        return OUT_OF_MEMORY;
    }
    fake_cuda_counts.mallocs++;
    *live += (int64_t)bytes;
    *peak = *live > *peak ? *live : *peak;
    block = create_block(bytes, device);
    block->next = blocks;
    blocks = block;
    *pointer = block->device_pointer;
    pthread_mutex_unlock(&lock);
    return OK;
}

int fake_cuda_release(void *pointer)
{
    struct block **link, *block;
    if (pointer == NULL)
        return OK;
    pthread_mutex_lock(&lock);
    for (link = &blocks; *link != NULL && (*link)->device_pointer != pointer; link = &(*link)->next)
        ;
    if ((block = *link) != NULL) {
        *link = block->next;
        fake_cuda_counts.frees++;
        fake_cuda_counts.live_bytes[block->device] -= (int64_t)block->bytes;
        munmap(block->device_pointer, block->bytes);
        munmap(block->host_pointer, block->bytes);
        free(block);
    }
    pthread_mutex_unlock(&lock);
    return block == NULL ? INVALID_VALUE : OK;
}

void *fake_cuda_host_pointer(const void *pointer, int *device)
{
    const char *address = pointer;
    char *host_pointer = NULL;
    struct block *block;
    pthread_mutex_lock(&lock);
    for (block = blocks; block != NULL; block = block->next)
        if (address >= block->device_pointer && address < block->device_pointer + block->bytes) {
            host_pointer = block->host_pointer + (address - block->device_pointer);
            if (device != NULL)
                *device = block->device;
            break;
        }
    pthread_mutex_unlock(&lock);
    return host_pointer;
}
