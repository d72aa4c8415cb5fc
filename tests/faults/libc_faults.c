/*
 * Faults of the machine, preloaded into a server: its clock jumps, its disk hangs or fails, names do not resolve.
 *
 * FAULTS names a file of three 64-bit numbers, mapped and read at each call, so that a test turns faults on and off
 * in a process that runs. Only files whose path holds "account.db" are on the disk that fails.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { HANG = -1 };

static volatile struct {
  int64_t clock_seconds; /* added to what the wall clock tells */
  int64_t disk;          /* an errno, or HANG, for whatever writes to the database */
  int64_t dns;           /* what getaddrinfo returns for names, or 0 */
} const *faults;

__attribute__((constructor)) static void map_faults(void) {
  int fd = open(getenv("FAULTS"), O_RDONLY | O_CLOEXEC);
  faults = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* ---- the clock ---- */

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = REAL(clock_gettime);
  int result = real(clock, now);
  if (clock == CLOCK_REALTIME && faults) now->tv_sec += faults->clock_seconds;
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec precise;
  int result = clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return result;
}

time_t time(time_t *into) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (into) *into = now.tv_sec;
  return now.tv_sec;
}

/* ---- the disk ---- */

static int disk_fails(int fd) {
  if (!faults->disk) return 0;
  char link[32], path[4096] = {0};
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  if (readlink(link, path, sizeof path - 1) < 0 || !strstr(path, "account.db")) return 0;
  while (faults->disk == HANG) usleep(10000);
  errno = (int)faults->disk;
  return errno != 0;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
  return disk_fails(fd) ? -1 : REAL(pwrite64)(fd, data, size, at);
}

int ftruncate64(int fd, off64_t size) { return disk_fails(fd) ? -1 : REAL(ftruncate64)(fd, size); }

int fsync(int fd) { return disk_fails(fd) ? -1 : REAL(fsync)(fd); }

int fdatasync(int fd) { return disk_fails(fd) ? -1 : REAL(fdatasync)(fd); }

/* ---- names ---- */

int getaddrinfo(const char *restrict name, const char *restrict service, const struct addrinfo *restrict hints,
                struct addrinfo **restrict found) {
  int is_name = name && strstr(name, ".test");
  if (is_name && faults->dns) return (int)faults->dns;
  return REAL(getaddrinfo)(is_name ? "127.0.0.1" : name, service, hints, found);
}
