/*
 * What the selftest guest compiles (`init/selftest.sh`): with no library and no header, so that a
 * compiler of one file is enough. Many small functions for the compiler, and a result that is known:
 * the exit status is 0 if the compiled program computes what it must, 1 otherwise.
 */
typedef unsigned long u64;

#define FUNCTION(n) \
	static u64 mix##n(u64 x) \
	{ \
		u64 i, table[8]; \
		for (i = 0; i < 8; i++) \
			table[i] = x * (2 * n + 1) + i; \
		for (i = 0; i < 64; i++) { \
			switch ((x >> (i % 32)) & 3) { \
			case 0: x ^= table[i % 8] << 7; break; \
			case 1: x += table[(i + n) % 8] >> 3; break; \
			case 2: x = (x << 13) | (x >> 51); break; \
			default: x = x / ((i | 1) + n) * 6364136223846793005; break; \
			} \
			table[(i * n) % 8] ^= x; \
		} \
		return x; \
	}
#define TEN(n) FUNCTION(n##0) FUNCTION(n##1) FUNCTION(n##2) FUNCTION(n##3) FUNCTION(n##4) \
	FUNCTION(n##5) FUNCTION(n##6) FUNCTION(n##7) FUNCTION(n##8) FUNCTION(n##9)
TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8)

#define CALLS(n) x = mix##n##0(x); x = mix##n##3(x); x = mix##n##6(x); x = mix##n##9(x);
#define EXPECTED 0x61381b8cc5fb9956UL

static void leave(long status)
{
	__asm__ volatile("syscall" : : "a"(60L), "D"(status) : "rcx", "r11", "memory");
}

void _start(void)
{
	u64 round, x = 88172645463325252;

	for (round = 0; round < 20; round++) {
		CALLS(1) CALLS(2) CALLS(3) CALLS(4) CALLS(5) CALLS(6) CALLS(7) CALLS(8)
	}
	leave(x != EXPECTED);
}
