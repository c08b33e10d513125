/* Counts and slows down a process's fsync(2) and fdatasync(2). For LD_PRELOAD.
 *
 * BENCH_SYNC_COUNT     a file of at least 8 bytes; its first eight are the count, in the machine's byte order
 * BENCH_SYNC_DELAY_US  microseconds that each call takes longer, as on a memory card
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t unseen;
static uint64_t *count = &unseen;
static struct timespec delay;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("BENCH_SYNC_COUNT");
    const char *text = getenv("BENCH_SYNC_DELAY_US");
    long microseconds = text ? atol(text) : 0;

    delay.tv_sec = microseconds / 1000000;
    delay.tv_nsec = microseconds % 1000000 * 1000;
    if (!path)
        return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        count = page;
    close(fd);
}

static int counted(long number, int fd)
{
    int result = (int)syscall(number, fd);
    int error = errno;
    struct timespec left = delay;

    __atomic_add_fetch(count, 1, __ATOMIC_RELAXED);
    if (delay.tv_sec || delay.tv_nsec)
        while (nanosleep(&left, &left) && errno == EINTR)
            ;
    errno = error;
    return result;
}

int fsync(int fd)
{
    return counted(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return counted(SYS_fdatasync, fd);
}
