/* Clears the accessed bits of its own pages, touches the pages again, and counts how many the kernel finds
 * marked: `accessed-bits ROUNDS PAGES [TOUCHES]`. Every page is touched TOUCHES times in a round.
 *
 * Linux flushes nothing when it clears them (/proc/self/clear_refs), as when it ages pages. So the count
 * depends on what still holds a translation then: the processor's TLB under nested paging, the
 * hypervisor's shadow pages under shadow paging. */
#define _DEFAULT_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096L

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* KiB of this program that are marked as accessed. */
static long marked(void) {
    static char text[8192];
    int file = open("/proc/self/smaps_rollup", O_RDONLY);
    ssize_t len = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (len <= 0)
        fail("/proc/self/smaps_rollup");
    close(file);
    text[len] = 0;
    const char *line = strstr(text, "Referenced:");
    if (!line)
        fail("Referenced");
    return atol(line + strlen("Referenced:"));
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 200, pages = argc > 2 ? atol(argv[2]) : 64;
    long touches = argc > 3 ? atol(argv[3]) : 40;
    int protection = PROT_READ | PROT_WRITE;
    volatile char *memory = mmap(0, pages * PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    int clear = open("/proc/self/clear_refs", O_WRONLY);
    unsigned long hash = 0;
    long last = 0, changes = 0;
    for (long round = 0; round < rounds; round++) {
        for (long page = 0; page < pages; page++)
            memory[page * PAGE] = (char)round;
        if (write(clear, "1", 1) != 1)
            fail("/proc/self/clear_refs");
        for (long touch = 0; touch < touches; touch++)
            for (long page = 0; page < pages; page++)
                memory[page * PAGE]++;
        long now = marked();
        changes += now != last;
        last = now;
        hash = hash * 31 + now;
    }
    printf("accessed-bits: %ld KiB at last, %ld changes, hash %016lx\n", last, changes, hash);
    return 0;
}
