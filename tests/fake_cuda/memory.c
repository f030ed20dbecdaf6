/* Memory of the device: each block is mapped twice, for the device without access and for copies with it. */
#define _GNU_SOURCE
#include "fake_cuda.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct block {
    char *pointer, *reach;
    size_t bytes;
    int device;
    struct block *next;
};

static struct block *blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct block *make(size_t bytes, int device)
{
    struct block *made = malloc(sizeof *made);
    int file = memfd_create("fake_cuda", MFD_CLOEXEC);
    if (made == NULL || file < 0 || ftruncate(file, (off_t)bytes) != 0)
        abort();
    made->bytes = bytes;
    made->device = device;
    made->pointer = mmap(NULL, bytes, PROT_NONE, MAP_SHARED, file, 0);
    made->reach = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (made->pointer == MAP_FAILED || made->reach == MAP_FAILED)
        abort();
    close(file);
    return made;
}

int fake_cuda_take(void **pointer, size_t bytes, int device)
{
    int64_t *live = &fake_cuda_counts.live_bytes[device], *peak = &fake_cuda_counts.peak_bytes[device];
    struct block *made;
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
    made = make(bytes, device);
    made->next = blocks;
    blocks = made;
    *pointer = made->pointer;
    pthread_mutex_unlock(&lock);
    return OK;
}

int fake_cuda_give(void *pointer)
{
    struct block **link, *gone;
    if (pointer == NULL)
        return OK;
    pthread_mutex_lock(&lock);
    for (link = &blocks; *link != NULL && (*link)->pointer != pointer; link = &(*link)->next)
        ;
    if ((gone = *link) != NULL) {
        *link = gone->next;
        fake_cuda_counts.frees++;
        fake_cuda_counts.live_bytes[gone->device] -= (int64_t)gone->bytes;
        munmap(gone->pointer, gone->bytes);
        munmap(gone->reach, gone->bytes);
        free(gone);
    }
    pthread_mutex_unlock(&lock);
    return gone == NULL ? INVALID_VALUE : OK;
}

void *fake_cuda_reach(const void *pointer, int *device)
{
    const char *wanted = pointer;
    char *found = NULL;
    struct block *one;
    pthread_mutex_lock(&lock);
    for (one = blocks; one != NULL; one = one->next)
        if (wanted >= one->pointer && wanted < one->pointer + one->bytes) {
            found = one->reach + (wanted - one->pointer);
            if (device != NULL)
                *device = one->device;
            break;
        }
    pthread_mutex_unlock(&lock);
    return found;
}
