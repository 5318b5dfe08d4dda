/* For LD_PRELOAD: the clock on the wall jumps a day ahead and a day back, every second. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>

static const long day_s = 24 * 60 * 60;

static int real(clockid_t clock, struct timespec *found) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next) next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    return next(clock, found);
}

int clock_gettime(clockid_t clock, struct timespec *found) {
    struct timespec steady;
    int status = real(clock, found);
    if (status || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return status;
    if ((status = real(CLOCK_MONOTONIC, &steady))) return status;
    found->tv_sec += steady.tv_sec % 2 ? day_s : -day_s;
    return 0;
}

int gettimeofday(struct timeval *found, void *zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    found->tv_sec = now.tv_sec;
    found->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *found) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return (time_t)-1;
    if (found) *found = now.tv_sec;
    return now.tv_sec;
}
