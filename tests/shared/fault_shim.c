/* Faults at the calls by which files reach the disk. Preloaded into a process (LD_PRELOAD), it counts the calls that
 * change the file system, and at the chosen one fails with an errno, or kills the process.
 *
 *   vitc_faults(step, error): at the call number `step` (from 1) fail with `error`, or SIGKILL where it is -1;
 *   step 0 only counts. Returns the number of calls since it was last called.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long calls, at;
static int fault;

long vitc_faults(long step, int error) {
    long seen = calls;
    calls = 0, at = step, fault = error;
    return seen;
}

static int fails(void) {
    calls++;
    if (at == 0 || calls != at) return 0;
    if (fault < 0) kill(getpid(), SIGKILL);
    errno = fault;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define SHIM(kind, name, parameters, arguments) \
    kind name parameters { return fails() ? -1 : NEXT(name) arguments; }

SHIM(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
SHIM(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t where), (fd, data, size, where))
SHIM(ssize_t, pwrite64, (int fd, const void *data, size_t size, off_t where), (fd, data, size, where))
SHIM(ssize_t, writev, (int fd, const struct iovec *data, int count), (fd, data, count))
SHIM(int, fsync, (int fd), (fd))
SHIM(int, fdatasync, (int fd), (fd))
SHIM(int, rename, (const char *from, const char *to), (from, to))
SHIM(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to))
SHIM(int, renameat2, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
SHIM(int, mkdir, (const char *path, mode_t mode), (path, mode))
SHIM(int, unlink, (const char *path), (path))
SHIM(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags))
SHIM(int, rmdir, (const char *path), (path))
SHIM(int, ftruncate, (int fd, off_t size), (fd, size))
SHIM(int, ftruncate64, (int fd, off_t size), (fd, size))
SHIM(int, fallocate, (int fd, int mode, off_t from, off_t size), (fd, mode, from, size))
SHIM(int, chmod, (const char *path, mode_t mode), (path, mode))
SHIM(ssize_t, sendfile, (int to, int from, off_t *where, size_t size), (to, from, where, size))
SHIM(ssize_t, sendfile64, (int to, int from, off_t *where, size_t size), (to, from, where, size))
SHIM(ssize_t, copy_file_range, (int a, off_t *x, int b, off_t *y, size_t size, unsigned flags), (a, x, b, y, size, flags))
SHIM(int, msync, (void *start, size_t size, int flags), (start, size, flags))

/* Opening for writing; for reading it changes nothing. */
#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0; \
        va_end(more);                                                     \
        if ((flags & O_ACCMODE) != O_RDONLY && fails()) return -1;        \
        return NEXT(name)(path, flags, mode);                             \
    }
OPEN(open)
OPEN(open64)

int openat(int fd, const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;
    va_end(more);
    if ((flags & O_ACCMODE) != O_RDONLY && fails()) return -1;
    return NEXT(openat)(fd, path, flags, mode);
}
