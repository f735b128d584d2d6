/* A hash join with grouping: build on one table, probe with a skewed one.
 *
 *   hashjoin BUILD_ROWS PROBE_ROWS SEED
 *
 * The build side is hashed into chains of 64-byte entries; the probe side is
 * made as it is read and follows a power law; matches add to 4096 groups.
 */
#include "common.h"

struct entry {
	struct entry *next;
	uint64_t key;
	uint32_t group;
	char payload[44];
};

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	uint64_t rows = strtoull(argv[1], NULL, 10);
	uint64_t probes = strtoull(argv[2], NULL, 10);
	state = strtoull(argv[3], NULL, 10);
	uint64_t buckets = 1;
	while (buckets < rows)
		buckets <<= 1;
	struct entry **table = calloc(buckets, sizeof(*table));
	struct entry *entries = malloc(rows * sizeof(*entries));
	double *group = calloc(4096, sizeof(*group));
	if (!table || !entries || !group)
		fail("malloc");
	for (uint64_t i = 0; i < rows; i++) {
		struct entry *entry = &entries[i];
		uint64_t slot = (i * 0x9E3779B97F4A7C15ull) & (buckets - 1);
		entry->key = i;
		entry->group = (uint32_t)(next_random() & 4095);
		memset(entry->payload, (int)i, sizeof(entry->payload));
		entry->next = table[slot];
		table[slot] = entry;
	}
	uint64_t matches = 0;
	for (uint64_t i = 0; i < probes; i++) {
		/* A tenth of the keys find nothing. */
		uint64_t key = scatter(next_rank(rows, 4.0), rows);
		if (next_random() % 10 == 0)
			key += rows;
		uint64_t slot = (key * 0x9E3779B97F4A7C15ull) & (buckets - 1);
		for (struct entry *e = table[slot]; e; e = e->next)
			if (e->key == key) {
				group[e->group] += e->payload[0];
				matches++;
				break;
			}
	}
	fprintf(stderr, "matches %llu\n", (unsigned long long)matches);
	return 0;
}
