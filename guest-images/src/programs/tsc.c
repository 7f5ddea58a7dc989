/*
 * Reads the time stamp counter with RDTSC and RDTSCP in turn, checks that no
 * value is below the one before, and says so on a line for every so many reads:
 *
 *     tsc: 2000 reads, last 81733514992, hash 5f0c2ed1a9b3c466, backwards 0
 *
 * Usage: tsc READS [LINES]     reads in a line; lines, 0 or nothing for ever
 *
 * The exit status is 1 if the counter ever went back, 2 for wrong arguments.
 * Every value goes into the hash (FNV-1a over 64-bit words), and RDTSCP's third
 * register too: two copies of a guest that saw one different value differ for
 * ever after.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t hash = UINT64_C(0xcbf29ce484222325);

static void mix(uint64_t value)
{
	hash = (hash ^ value) * UINT64_C(0x100000001b3);
}

static uint64_t rdtsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

/* CPUID does not offer RDTSCP to the guest; it works all the same. */
static uint64_t rdtscp(void)
{
	uint32_t low, high, processor;

	__asm__ volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(processor) : : "memory");
	mix(processor);
	return (uint64_t)high << 32 | low;
}

static int number(const char *text, uint64_t *value)
{
	char *end;

	*value = strtoull(text, &end, 10);
	return *text != '\0' && *end == '\0';
}

int main(int argc, char **argv)
{
	uint64_t reads, lines = 0, done = 0, last = 0, backwards = 0;

	if (argc < 2 || argc > 3 || !number(argv[1], &reads) || reads == 0
	    || (argc == 3 && !number(argv[2], &lines))) {
		fprintf(stderr, "usage: tsc READS [LINES]\n");
		return 2;
	}
	for (uint64_t line = 1; lines == 0 || line <= lines; line++) {
		for (uint64_t read = 0; read < reads; read++) {
			uint64_t value = read % 2 == 0 ? rdtsc() : rdtscp();

			if (value < last)
				backwards++;
			last = value;
			mix(value);
		}
		done += reads;
		printf("tsc: %" PRIu64 " reads, last %" PRIu64 ", hash %016" PRIx64
		       ", backwards %" PRIu64 "\n", done, last, hash, backwards);
		/* The reader may be gone: it has no more interest. */
		if (fflush(stdout) != 0)
			break;
	}
	return backwards == 0 ? 0 : 1;
}
