/*
 * Writes blocks to a disk past the guest's cache, reads them back, and says so
 * on a line for every lap over its area:
 *
 *     disk: worker 0, lap 12, 192 writes, 192 reads, 48 flushes, errors 0, wrong 0
 *
 * Usage: disk DEVICE [WORKERS [LAPS [PAUSE]]]
 *     DEVICE   block device or file; what is in it is overwritten
 *     WORKERS  processes, each with an area of its own: as many requests are in
 *              flight at once; 1 if not given
 *     LAPS     laps of each worker; 0 or nothing for ever
 *     PAUSE    milliseconds to sleep after each lap; 0 if not given
 *
 * `errors` counts requests that failed (each gives a line of its own), `wrong`
 * those that gave other data than was written. The exit status is 1 if there was
 * any of either, 2 for wrong arguments or a device that cannot be used.
 *
 * A worker's area is SLOTS slots of STRIDE bytes, and one slot more that is
 * discarded and never looked at. Lap L (from 1) writes every slot once, in order,
 * and reads it back; every fourth slot, and so the end of the lap, is followed by
 * a flush. When the line of lap L is out, every slot holds what lap L or a later
 * one wrote. What that is depends on worker, lap and slot alone:
 * `guest_images::disk` knows it too, and the constants here are the ones there.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 16
#define STRIDE 81920
#define AREA ((SLOTS + 1) * STRIDE)
#define MAX_WORKERS 64

/* One sector; one page; more than 64 KiB; several pages. */
static const size_t lengths[4] = { 512, 4096, 73728, 16384 };

struct worker {
	int file;
	int is_device;
	uint64_t number;
	uint64_t writes, reads, flushes, errors, wrong;
};

/* Every odd lap the slots 7 and 15 are zeroed, by the disk itself if it can. */
static int is_zero(uint64_t lap, uint64_t slot)
{
	return lap % 2 == 1 && slot % 8 == 7;
}

static void fill(void *buffer, size_t length, uint64_t worker, uint64_t lap, uint64_t slot)
{
	uint64_t *words = buffer;
	uint64_t seed = (worker << 56) ^ (slot << 48) ^ lap;

	for (size_t i = 0; i < length / sizeof *words; i++)
		words[i] = is_zero(lap, slot) ? 0 : (seed + i) * UINT64_C(0x9e3779b97f4a7c15);
}

static void failed(struct worker *worker, const char *what, uint64_t offset)
{
	int error = errno;

	worker->errors++;
	printf("disk: worker %" PRIu64 ": %s at byte %" PRIu64 " failed: %s\n",
	       worker->number, what, offset, strerror(error));
}

static void flush(struct worker *worker)
{
	worker->flushes++;
	if (fsync(worker->file) != 0)
		failed(worker, "flush", 0);
}

static int transferred(ssize_t result, size_t length)
{
	if (result >= 0 && (size_t)result != length)
		errno = EIO;
	return result >= 0 && (size_t)result == length;
}

static void lap(struct worker *worker, uint64_t number, uint8_t *wanted, uint8_t *found)
{
	uint64_t base = worker->number * AREA;
	uint64_t spare[2] = { base + SLOTS * STRIDE, STRIDE };

	for (uint64_t slot = 0; slot < SLOTS; slot++) {
		size_t length = lengths[slot % 4];
		uint64_t offset = base + slot * STRIDE;
		uint64_t range[2] = { offset, length };
		int done;

		fill(wanted, length, worker->number, number, slot);
		worker->writes++;
		if (is_zero(number, slot) && worker->is_device)
			done = ioctl(worker->file, BLKZEROOUT, range) == 0;
		else
			done = transferred(pwrite(worker->file, wanted, length, (off_t)offset), length);
		if (!done)
			failed(worker, "write", offset);

		worker->reads++;
		memset(found, 0xa5, length);
		if (!transferred(pread(worker->file, found, length, (off_t)offset), length))
			failed(worker, "read", offset);
		else if (done && memcmp(wanted, found, length) != 0)
			worker->wrong++;
		if (slot % 4 == 3)
			flush(worker);
	}
	if (worker->is_device && ioctl(worker->file, BLKDISCARD, spare) != 0
	    && errno != EOPNOTSUPP)
		failed(worker, "discard", spare[0]);
}

static int work(struct worker *worker, uint64_t laps, uint64_t pause)
{
	/* Neither size can fail to be a power of two; no memory is reported. */
	uint8_t *wanted = aligned_alloc(4096, STRIDE);
	uint8_t *found = aligned_alloc(4096, STRIDE);

	if (wanted == NULL || found == NULL) {
		fprintf(stderr, "disk: no memory\n");
		return 2;
	}
	for (uint64_t number = 1; laps == 0 || number <= laps; number++) {
		lap(worker, number, wanted, found);
		printf("disk: worker %" PRIu64 ", lap %" PRIu64 ", %" PRIu64 " writes, %" PRIu64
		       " reads, %" PRIu64 " flushes, errors %" PRIu64 ", wrong %" PRIu64 "\n",
		       worker->number, number, worker->writes, worker->reads, worker->flushes,
		       worker->errors, worker->wrong);
		/* The reader may be gone: it has no more interest. */
		if (fflush(stdout) != 0)
			break;
		if (pause != 0) {
			struct timespec time = {
				.tv_sec = (time_t)(pause / 1000),
				.tv_nsec = (long)(pause % 1000) * 1000000,
			};

			nanosleep(&time, NULL);
		}
	}
	return worker->errors == 0 && worker->wrong == 0 ? 0 : 1;
}

static int number(const char *text, uint64_t *value)
{
	char *end;

	*value = strtoull(text, &end, 10);
	return *text != '\0' && *end == '\0';
}

int main(int argc, char **argv)
{
	uint64_t workers = 1, laps = 0, pause = 0;
	struct stat status;
	off_t size;
	int file, result = 0;

	if (argc < 2 || argc > 5
	    || (argc > 2 && (!number(argv[2], &workers) || workers == 0 || workers > MAX_WORKERS))
	    || (argc > 3 && !number(argv[3], &laps))
	    || (argc > 4 && !number(argv[4], &pause))) {
		fprintf(stderr, "usage: disk DEVICE [WORKERS [LAPS [PAUSE]]], at most %d workers\n",
			MAX_WORKERS);
		return 2;
	}
	file = open(argv[1], O_RDWR | O_DIRECT);
	if (file < 0 || fstat(file, &status) != 0 || (size = lseek(file, 0, SEEK_END)) < 0) {
		fprintf(stderr, "disk: cannot use %s: %s\n", argv[1], strerror(errno));
		return 2;
	}
	if ((uint64_t)size < workers * AREA) {
		fprintf(stderr, "disk: %s has %jd bytes, and %" PRIu64 " workers need %" PRIu64 "\n",
			argv[1], (intmax_t)size, workers, workers * AREA);
		return 2;
	}
	for (uint64_t i = 0; i < workers; i++) {
		struct worker worker = {
			.file = file, .is_device = S_ISBLK(status.st_mode), .number = i,
		};
		pid_t child = fork();

		if (child == 0)
			return work(&worker, laps, pause);
		if (child < 0) {
			perror("disk: cannot start a worker");
			result = 2;
			break;
		}
	}
	for (int one; wait(&one) > 0;) {
		int code = WIFEXITED(one) ? WEXITSTATUS(one) : 1;

		if (code > result)
			result = code;
	}
	return result;
}
