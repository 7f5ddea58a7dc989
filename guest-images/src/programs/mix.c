/*
 * The mixed load of the selftest guest: processes that do, all at once and for so many seconds, what makes
 * a replay hard. Each does so once at least, and checks its own results. At the end one line says what was
 * done:
 *
 *     mix: forks 310, execs 77, signals 4120, faults 96, floats 52, aged 40, compiled 12, reclaimed 30511, pswpin 812, pswpout 2907, wrong 0
 *
 * forks, execs   children that wrote to memory they share with their parent, and those that executed
 *                this program anew
 * signals        SIGALRM of a timer and SIGUSR1 of another process, on a stack of their own
 * faults         SIGSEGV of a write to a page that is read-only; the handler makes it writable
 * floats         computations in SSE and x87 registers, compared with the first one
 * aged           rounds of touching pages whose accessed bits were cleared (/proc/self/clear_refs: Linux
 *                flushes nothing there)
 * compiled       compilations by tcc of a program that checks itself, and its runs
 * reclaimed      touches of more memory than there is
 * pswpin, pswpout  pages that were swapped in and out meanwhile, by the kernel's count (/proc/vmstat)
 * wrong          results that were not as they must be; what it was is on a line of its own
 *
 * Usage: mix SECONDS SOURCE
 *     SOURCE  what to compile
 *
 * The exit status is 1 if something was wrong, 2 for wrong arguments.
 */
#define _GNU_SOURCE

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define FLAGS (MAP_PRIVATE | MAP_ANONYMOUS)

/* Shared by all of the processes. */
static struct results {
	long forks, execs, signals, faults, floats, aged, compiled, reclaimed, wrong;
} *results;

static time_t deadline;

static time_t now(void)
{
	struct timespec time;

	/* Cannot fail: the clock exists and the address is good. */
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

static void count(long *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static void wrong(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	printf("mix: WRONG ");
	vprintf(format, arguments);
	printf("\n");
	fflush(stdout);
	va_end(arguments);
	count(&results->wrong);
}

static void *memory(long bytes)
{
	void *m = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, FLAGS, -1, 0);

	if (m == MAP_FAILED) {
		wrong("no memory");
		exit(1);
	}
	return m;
}

static uint64_t step(uint64_t *x)
{
	*x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
	return *x;
}

/* The exit status of a child; -1 if it was killed, or could not be made. */
static int status_of(pid_t child)
{
	int status;

	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

/* What a child that was executed does: its status is that of its argument. */
static int executed(const char *argument)
{
	return (atoi(argument) * 7 + 3) % 100;
}

static void forks(void)
{
	enum { PAGES = 64 };
	volatile unsigned char *m = memory(PAGES * PAGE);

	/* Every fourth one executes. */
	for (int round = 0; round < 4 || now() < deadline; round++) {
		for (int i = 0; i < PAGES; i++)
			m[i * PAGE] = (unsigned char)(round + i);
		int executes = round % 4 == 3;
		pid_t child = fork();
		if (child == 0 && executes) {
			char argument[16];
			snprintf(argument, sizeof argument, "%d", round);
			execl("/proc/self/exe", "mix", "executed", argument, (char *)NULL);
			_exit(127);
		}
		if (child == 0) {
			unsigned char sum = 0;
			for (int i = 0; i < PAGES; i += 3)
				m[i * PAGE] ^= 0xff;
			for (int i = 0; i < PAGES; i++)
				sum = (unsigned char)(sum + m[i * PAGE]);
			_exit(sum % 100);
		}
		unsigned char sum = 0;
		for (int i = 0; i < PAGES; i++)
			sum = (unsigned char)(sum + (unsigned char)((round + i) ^ (i % 3 ? 0 : 0xff)));
		int status = status_of(child), expected = sum % 100;
		if (executes)
			expected = (round * 7 + 3) % 100;
		if (status != expected)
			wrong("a child ended with %d, not %d", status, expected);
		for (int i = 0; i < PAGES; i++)
			if (m[i * PAGE] != (unsigned char)(round + i))
				wrong("a child wrote to its parent's memory");
		count(executes ? &results->execs : &results->forks);
	}
}

static volatile sig_atomic_t alarms, users;
static unsigned char *guarded;

static void on_signal(int signal)
{
	if (signal == SIGALRM)
		alarms++;
	else
		users++;
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)context;
	unsigned char *at = (unsigned char *)((uintptr_t)info->si_addr & -(uintptr_t)PAGE);
	if (at != guarded || mprotect(guarded, PAGE, PROT_READ | PROT_WRITE))
		_exit(99);
	count(&results->faults);
}

static void signals(void)
{
	static char stack[65536];
	stack_t other = { .ss_sp = stack, .ss_size = sizeof stack };
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART };
	struct sigaction fault = { .sa_sigaction = on_fault, .sa_flags = SA_ONSTACK | SA_SIGINFO };
	struct itimerval timer = { { 0, 3000 }, { 0, 3000 } };
	long sent = 0;

	sigaltstack(&other, NULL);
	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGSEGV, &fault, NULL);
	guarded = memory(PAGE);
	setitimer(ITIMER_REAL, &timer, NULL);
	for (unsigned char round = 0; sent == 0 || now() < deadline; round++) {
		mprotect(guarded, PAGE, PROT_READ);
		*(volatile unsigned char *)guarded = round;
		if (*(volatile unsigned char *)guarded != round)
			wrong("a write after a fault was lost");
		/* Delivered before kill() returns: it is to this process, of one thread. */
		kill(getpid(), SIGUSR1);
		if (users != ++sent)
			wrong("%d of %ld signals came", (int)users, sent);
		usleep(2000);
	}
	timer = (struct itimerval){ 0 };
	setitimer(ITIMER_REAL, &timer, NULL);
	__atomic_fetch_add(&results->signals, alarms + users, __ATOMIC_RELAXED);
}

/* Sums of a chaotic sequence in both kinds of registers: any bit that is lost changes all that follows. */
static void compute(double *sse, long double *x87)
{
	double x = 0.1234567, root, sum = 0;
	long double y = 0.7654321L, sums = 0;

	for (int i = 0; i < 20000; i++) {
		x = 3.99 * x * (1 - x);
		__asm__("sqrtsd %1, %0" : "=x"(root) : "x"(x));
		sum += root / (1 + x);
		y = 3.97L * y * (1 - y);
		sums += y / (1 + y * y);
	}
	*sse = sum, *x87 = sums;
}

static void floats(void)
{
	double first, sse;
	long double first_x87, x87;

	compute(&first, &first_x87);
	do {
		compute(&sse, &x87);
		if (memcmp(&sse, &first, sizeof sse) || memcmp(&x87, &first_x87, 10))
			wrong("a computation gave %.17g and %.20Lg, first %.17g and %.20Lg", sse, x87, first,
			      first_x87);
		count(&results->floats);
	} while (now() < deadline);
}

static void aged(void)
{
	enum { PAGES = 64 };
	volatile unsigned char *m = memory(PAGES * PAGE);
	static char text[4096];

	do {
		for (int i = 0; i < PAGES; i++)
			m[i * PAGE]++;
		int clear = open("/proc/self/clear_refs", O_WRONLY);
		if (clear < 0 || write(clear, "1", 1) != 1)
			wrong("/proc/self/clear_refs cannot be written");
		close(clear);
		for (int k = 0; k < 40; k++)
			for (int i = 0; i < PAGES; i++)
				m[i * PAGE]++;
		/* Who is asked counts the accessed bits. */
		int marked = open("/proc/self/smaps_rollup", O_RDONLY);
		if (marked < 0 || read(marked, text, sizeof text) <= 0)
			wrong("/proc/self/smaps_rollup cannot be read");
		close(marked);
		count(&results->aged);
		usleep(20000);
	} while (now() < deadline);
}

static int runs(const char *program, char *const argv[])
{
	pid_t child = fork();

	if (child == 0) {
		execv(program, argv);
		_exit(127);
	}
	return status_of(child);
}

static void compiled(const char *source)
{
	static char program[] = "/tmp/compiled";
	char *compile[] = { "tcc", "-nostdlib", "-static", "-o", program, (char *)source, NULL };
	char *run[] = { program, NULL };

	do {
		int status = runs("/usr/bin/tcc", compile);
		if (status != 0) {
			wrong("the compiler ended with %d", status);
			return;
		}
		status = runs(program, run);
		if (status != 0)
			wrong("the compiled program ended with %d", status);
		count(&results->compiled);
	} while (now() < deadline);
}

/* A number of the kernel's: the one behind `name` in a file of such lines. */
static long kernel_says(const char *file, const char *name)
{
	char line[256];
	long number = 0;
	FILE *lines = fopen(file, "r");

	while (lines && fgets(line, sizeof line, lines))
		if (!strncmp(line, name, strlen(name)))
			number = atol(line + strlen(name));
	if (lines)
		fclose(lines);
	return number;
}

static uint64_t *pages_of_worker;

/* Counts in a page itself, and so finds out whether it is the same one wherever it was meanwhile. */
static void touch(long page)
{
	uint64_t *at = pages_of_worker + page * (PAGE / (long)sizeof *pages_of_worker);

	if (at[1] != (at[0] ? at[0] * 2654435761u + (uint64_t)page : 0))
		wrong("page %ld came back with other contents", page);
	at[0]++;
	at[1] = at[0] * 2654435761u + (uint64_t)page;
	count(&results->reclaimed);
}

/* Touches all pages, and then some at random, however long that takes, so that some are swapped in again:
 * a part of them more often than the others, so that the kernel has something to choose. */
static void reclaimed(long pages, uint64_t seed)
{
	uint64_t x = 88172645463325252u + seed;

	pages_of_worker = memory(pages * PAGE);
	for (long page = 0; page < pages; page++)
		touch(page);
	do {
		for (int n = 0; n < 128; n++) {
			uint64_t random = step(&x);
			touch((long)(random % (uint64_t)(random >> 60 < 10 ? pages / 8 : pages)));
		}
	} while (now() < deadline);
}

#define WORKERS 3

static pid_t worker(int number, const char *source, long pages)
{
	pid_t child = fork();

	if (child != 0)
		return child;
	switch (number) {
	case 0: forks(); break;
	case 1: signals(); break;
	case 2: floats(); break;
	case 3: aged(); break;
	case 4: compiled(source); break;
	default: reclaimed(pages, (uint64_t)number); break;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "executed"))
		return executed(argv[2]);
	int seconds = argc == 3 ? atoi(argv[1]) : 0;
	if (seconds <= 0) {
		fprintf(stderr, "usage: mix SECONDS SOURCE\n");
		return 2;
	}
	results = mmap(NULL, sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED) {
		perror("mix");
		return 2;
	}
	deadline = now() + seconds;
	long in = kernel_says("/proc/vmstat", "pswpin "), out = kernel_says("/proc/vmstat", "pswpout ");
	/* A quarter more than there is, or half of what there is where nothing can be swapped. */
	long pages = kernel_says("/proc/meminfo", "MemAvailable:") / 4;
	pages = kernel_says("/proc/meminfo", "SwapTotal:") ? pages * 5 / 4 : pages / 2;
	pid_t workers[5 + WORKERS];
	for (int number = 0; number < 5 + WORKERS; number++)
		workers[number] = worker(number, argv[2], pages / WORKERS);
	for (int number = 0; number < 5 + WORKERS; number++) {
		int status = status_of(workers[number]);
		if (status != 0)
			wrong("worker %d ended with %d", number, status);
	}
	printf("mix: forks %ld, execs %ld, signals %ld, faults %ld, floats %ld, aged %ld, compiled %ld, "
	       "reclaimed %ld, pswpin %ld, pswpout %ld, wrong %ld\n",
	       results->forks, results->execs, results->signals, results->faults, results->floats,
	       results->aged, results->compiled, results->reclaimed,
	       kernel_says("/proc/vmstat", "pswpin ") - in, kernel_says("/proc/vmstat", "pswpout ") - out,
	       results->wrong);
	return results->wrong != 0;
}
