/*
 * Reads a clock with clock_gettime(), checks that no value is below the one
 * before, and says so on a line for every so many reads:
 *
 *     clock: 1000 reads of monotonic, last 81.733514992, wall 1767225600.250013377, step 1117, same 0, backwards 0
 *
 * `last` is the clock's last value and `wall` CLOCK_REALTIME read right behind
 * it, both in seconds; `step` is the smallest difference between two different
 * values so far, in nanoseconds, which is the resolution as far as a program can
 * see it; `same` is how many reads so far gave the value of the one before.
 *
 * Usage: clock CLOCK READS [LINES [PAUSE]]
 *     CLOCK  monotonic or realtime
 *     READS  reads in a line
 *     LINES  0 for ever; 1 if not given
 *     PAUSE  milliseconds to sleep after each line; 0 if not given
 *
 * The exit status is 1 if the clock ever went back, 2 for wrong arguments.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NANOS UINT64_C(1000000000)

static uint64_t now(clockid_t clock)
{
	struct timespec time;

	/* Cannot fail: the clock exists and the address is good. */
	clock_gettime(clock, &time);
	return (uint64_t)time.tv_sec * NANOS + (uint64_t)time.tv_nsec;
}

static int number(const char *text, uint64_t *value)
{
	char *end;

	*value = strtoull(text, &end, 10);
	return *text != '\0' && *end == '\0';
}

int main(int argc, char **argv)
{
	uint64_t reads = 0, lines = 1, pause = 0;
	uint64_t last = 0, step = UINT64_MAX, same = 0, backwards = 0;
	clockid_t clock = CLOCK_MONOTONIC;

	if (argc < 3 || argc > 5
	    || (strcmp(argv[1], "monotonic") != 0 && strcmp(argv[1], "realtime") != 0)
	    || !number(argv[2], &reads) || reads == 0
	    || (argc > 3 && !number(argv[3], &lines))
	    || (argc > 4 && !number(argv[4], &pause))) {
		fprintf(stderr, "usage: clock monotonic|realtime READS [LINES [PAUSE]]\n");
		return 2;
	}
	if (strcmp(argv[1], "realtime") == 0)
		clock = CLOCK_REALTIME;
	for (uint64_t line = 1; lines == 0 || line <= lines; line++) {
		uint64_t wall;

		for (uint64_t read = 0; read < reads; read++) {
			uint64_t value = now(clock);

			if (value < last)
				backwards++;
			else if (value == last)
				same++;
			else if (last != 0 && value - last < step)
				step = value - last;
			last = value;
		}
		wall = now(CLOCK_REALTIME);
		printf("clock: %" PRIu64 " reads of %s, last %" PRIu64 ".%09" PRIu64
		       ", wall %" PRIu64 ".%09" PRIu64 ", step %" PRIu64 ", same %" PRIu64
		       ", backwards %" PRIu64 "\n", reads, argv[1], last / NANOS, last % NANOS,
		       wall / NANOS, wall % NANOS, step, same, backwards);
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
	return backwards == 0 ? 0 : 1;
}
