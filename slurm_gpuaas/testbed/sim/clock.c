/*
 * The wall clock of a testbed that can be set ahead, preloaded into every program of it (/etc/ld.so.preload): each sees the
 * host's real time plus the seconds in GPUAAS_CLOCK (/run/gpuaas-clock, one 64-bit number, mapped: a change is there for all
 * at once). Without the file, time is the host's. The host's clock is never touched.
 *
 * Only the wall clock moves, as when an administrator sets the date: monotonic clocks, sleeps and timeouts do not. Deadlines
 * on the wall clock are given to the kernel in its own time. The machine has been up through the days that were skipped.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define FILE_NAME "/run/gpuaas-clock"
/* A deadline below is one of a monotonic clock: no machine has been up for 30 years. */
#define LEAST_WALL_CLOCK 1000000000

static const volatile int64_t *ahead_by;

static void __attribute__((constructor)) map_file(void)
{
    int file = open(FILE_NAME, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    struct stat found;
    if (fstat(file, &found) == 0 && found.st_size >= (off_t)sizeof(int64_t)) {
        void *mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED)
            ahead_by = mapped;
    }
    close(file);
}

static int64_t ahead(void)
{
    return ahead_by ? *ahead_by : 0;
}

API int clock_gettime(clockid_t clock, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI))
        now->tv_sec += ahead();
    return failed;
}

API int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone;
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact))
        return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

API time_t time(time_t *now)
{
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact))
        return -1;
    if (now)
        *now = exact.tv_sec;
    return exact.tv_sec;
}

API int timespec_get(struct timespec *now, int base)
{
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, now) ? base : 0;
}

API int sysinfo(struct sysinfo *info)
{
    int failed = (int)syscall(SYS_sysinfo, info);
    if (!failed)
        info->uptime += ahead();
    return failed;
}

static struct timespec of_kernel(const struct timespec *deadline)
{
    struct timespec shifted = *deadline;
    if (shifted.tv_sec >= LEAST_WALL_CLOCK)
        shifted.tv_sec -= ahead();
    return shifted;
}

/* The newest version of a symbol: without one dlsym may find an older one with another structure. */
#if defined(__x86_64__)
#define CONDITIONS "GLIBC_2.3.2"
#define SEMAPHORES "GLIBC_2.34"
#else
#define CONDITIONS "GLIBC_2.17"
#define SEMAPHORES "GLIBC_2.34"
#endif

static void *newest(const char *name, const char *version)
{
    void *found = dlvsym(RTLD_NEXT, name, version);
    return found ? found : dlsym(RTLD_NEXT, name);
}

API int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                               const struct timespec *restrict deadline)
{
    static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!real)
        real = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))newest("pthread_cond_timedwait",
                                                                                             CONDITIONS);
    struct timespec shifted = of_kernel(deadline);
    return real(condition, mutex, &shifted);
}

#define DEADLINE_OF(name, kind)                                                                                                \
    API int name(kind *restrict thing, const struct timespec *restrict deadline)                                               \
    {                                                                                                                          \
        static int (*real)(kind *, const struct timespec *);                                                                   \
        if (!real)                                                                                                             \
            real = (int (*)(kind *, const struct timespec *))newest(#name, SEMAPHORES);                                        \
        struct timespec shifted = of_kernel(deadline);                                                                         \
        return real(thing, &shifted);                                                                                          \
    }
DEADLINE_OF(sem_timedwait, sem_t)
DEADLINE_OF(pthread_mutex_timedlock, pthread_mutex_t)
DEADLINE_OF(pthread_rwlock_timedrdlock, pthread_rwlock_t)
DEADLINE_OF(pthread_rwlock_timedwrlock, pthread_rwlock_t)
