/* A disk that stalls: while the file that STALLED_DISK names exists, nothing that is written becomes durable. The calls do
 * not fail and no signal ends them, as with a disk whose controller does not answer. Loaded into PostgreSQL by LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void wait_for_the_disk(void) {
    const char *stalled = getenv("STALLED_DISK");
    const struct timespec pause = {0, 5 * 1000 * 1000};
    while (stalled != NULL && access(stalled, F_OK) == 0) {
        nanosleep(&pause, NULL);
    }
}

int fsync(int fd) {
    wait_for_the_disk();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    wait_for_the_disk();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
