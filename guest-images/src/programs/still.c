/*
 * Preloaded into programs that make a part of a disk image: time stands still for
 * them, and what they take for random is always the same. So two runs write the
 * same bytes: PostgreSQL's initdb writes times, an identifier made of them and
 * a random number; mke2fs writes the times at which files were made.
 *
 * The image has nothing secret: it is for tests, and known to everybody.
 */
#define _GNU_SOURCE

#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>

/* The time, from the variable that all reproducible builds use. */
static time_t still(void)
{
	const char *epoch = getenv("SOURCE_DATE_EPOCH");

	return epoch == NULL ? 0 : (time_t)strtoll(epoch, NULL, 10);
}

time_t time(time_t *result)
{
	if (result != NULL)
		*result = still();
	return still();
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
	(void)zone;
	*time = (struct timeval){ .tv_sec = still() };
	return 0;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
	(void)clock;
	*time = (struct timespec){ .tv_sec = still() };
	return 0;
}

/* OpenSSL's, which PostgreSQL asks. */
int RAND_bytes(unsigned char *buffer, int length)
{
	memset(buffer, 0x5a, (size_t)length);
	return 1;
}

int RAND_status(void)
{
	return 1;
}

/* mke2fs copies all three times of a file; only one of them can be set before. */
int lstat64(const char *restrict path, struct stat64 *restrict status)
{
	int result = fstatat64(AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);

	if (result == 0) {
		if (status->st_mtim.tv_sec > still())
			status->st_mtim = (struct timespec){ .tv_sec = still() };
		status->st_mtim.tv_nsec = 0;
		status->st_atim = status->st_mtim;
		status->st_ctim = status->st_mtim;
	}
	return result;
}
