/* What the programs share: a seeded generator and a power-law draw. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

/* splitmix64 (Steele, Lea and Flood, OOPSLA 2014). */
static inline uint64_t next_random(void)
{
	uint64_t z = (state += 0x9E3779B97F4A7C15ull);
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
	return z ^ (z >> 31);
}

static inline double next_unit(void)
{
	return (double)(next_random() >> 11) * 0x1p-53;
}

/* Rank in [0, n) with density proportional to rank^(1/a - 1): a = 4 gives the
 * exponent -0.75; a = 1 is uniform. */
static inline uint64_t next_rank(uint64_t n, double a)
{
	return (uint64_t)((double)n * pow(next_unit(), a));
}

/* Scatter ranks over [0, n) in groups of 16 neighbours; n a multiple of 16
 * whose sixteenth part the odd prime 7919 does not divide. */
static inline uint64_t scatter(uint64_t rank, uint64_t n)
{
	uint64_t groups = n / 16;
	return (rank / 16 * 7919 + 3) % groups * 16 + rank % 16;
}

static inline void fail(const char *what)
{
	perror(what);
	exit(1);
}
