/* page-pressure PROCESSES MIB TOUCHES: each process fills MIB MiB and touches its pages, a hot eighth of
 * them most of the time. Where there is less memory than that and a place to swap to, Linux ages and
 * reclaims pages by their accessed bits, and touching them brings them back. At the end a line says how
 * many pages were swapped in and out since the boot (/proc/vmstat). */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES_IN_A_MIB = 256, TOUCHES_AN_EXIT = 300 };

static void press(long process, long pages, long touches)
{
    unsigned char *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        exit(1);
    for (long page = 0; page < pages; page++)
        memset(memory + page * PAGE, (int)page, 64);
    /* Marsaglia's xorshift: the same numbers on every machine. */
    unsigned long random = 88172645463325252UL + process, sum = 0;
    for (long touch = 0; touch < touches; touch++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        long page = (random >> 60) < 12 ? random % (pages / 8) : random % pages;
        sum += memory[page * PAGE + (random >> 50) % 64];
        if ((random >> 40) % 16 == 0)
            memory[page * PAGE + 8]++;
        /* A read of the counter is an exit: registers are compared here. */
        if (touch % TOUCHES_AN_EXIT == 0)
            __asm__ volatile("rdtsc" ::: "rax", "rdx");
    }
    printf("page-pressure: process %ld, sum %lu\n", process, sum);
    fflush(stdout);
    _exit(0);
}

static long counter(const char *name)
{
    FILE *file = fopen("/proc/vmstat", "r");
    char found[64];
    long value;
    while (file && fscanf(file, "%63s %ld", found, &value) == 2)
        if (strcmp(found, name) == 0)
            return fclose(file), value;
    return -1;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: page-pressure PROCESSES MIB TOUCHES\n");
        return 2;
    }
    long processes = atol(argv[1]), pages = atol(argv[2]) * PAGES_IN_A_MIB;
    for (long process = 0; process < processes; process++)
        if (fork() == 0)
            press(process, pages, atol(argv[3]));
    int status, failed = 0;
    while (wait(&status) > 0)
        failed |= status;
    printf("page-pressure: %s, pswpin %ld, pswpout %ld\n", failed ? "failed" : "done",
           counter("pswpin"), counter("pswpout"));
    return failed != 0;
}
