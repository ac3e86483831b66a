/* The wall clock, and what the file FALSE_CLOCK names says (int64, seconds) added to it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int offset = -1;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("FALSE_CLOCK");
	if (path)
		offset = open(path, O_RDONLY | O_CLOEXEC);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int64_t ahead = 0;
	if (syscall(SYS_clock_gettime, clock, now) != 0)
		return -1;
	if (clock == CLOCK_REALTIME && offset >= 0 &&
	    pread(offset, &ahead, sizeof ahead, 0) == sizeof ahead)
		now->tv_sec += ahead;
	return 0;
}
