/* Breadth-first search and PageRank on a power-law graph in compressed rows.
 *
 *   graph build FILE SCALE EDGES SEED   2^SCALE vertices (run without valgrind)
 *   graph run FILE ITERATIONS
 *
 * Edges are drawn as R-MAT draws them (Chakrabarti, Zhan and Faloutsos, SDM
 * 2004; a, b, c = 0.57, 0.19, 0.19). Ids are not shuffled: low ids are hot.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"

static void build(const char *path, int scale, uint32_t edges)
{
	uint32_t n = 1u << scale;
	uint32_t *from = malloc(4ull * edges), *to = malloc(4ull * edges);
	uint32_t *start = calloc(n + 2, 4), *adjacent = malloc(4ull * edges);
	for (uint32_t e = 0; e < edges; e++) {
		uint32_t u = 0, v = 0;
		for (int bit = 0; bit < scale; bit++) {
			double p = next_unit();
			u = u << 1 | (p >= 0.76);
			v = v << 1 | ((p >= 0.57 && p < 0.76) || p >= 0.95);
		}
		from[e] = u;
		to[e] = v;
		start[v + 2]++;
	}
	for (uint32_t v = 2; v < n + 2; v++)
		start[v] += start[v - 1];
	for (uint32_t e = 0; e < edges; e++)
		adjacent[start[to[e] + 1]++] = from[e];
	FILE *file = fopen(path, "wb");
	uint32_t head[2] = { n, edges };
	if (!file || fwrite(head, 4, 2, file) != 2 ||
	    fwrite(start, 4, n + 1, file) != n + 1 ||
	    fwrite(adjacent, 4, edges, file) != edges || fclose(file))
		fail(path);
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "build")) {
		state = strtoull(argv[5], NULL, 10);
		build(argv[2], atoi(argv[3]), (uint32_t)atoi(argv[4]));
		return 0;
	}
	if (argc != 4)
		return 2;
	struct stat facts;
	int fd = open(argv[2], O_RDONLY);
	if (fd < 0 || fstat(fd, &facts))
		fail(argv[2]);
	const uint32_t *file = mmap(NULL, facts.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (file == MAP_FAILED)
		fail("mmap");
	uint32_t n = file[0];
	const uint32_t *start = file + 2, *adjacent = start + n + 1;

	uint32_t *depth = malloc(4ull * n), *queue = malloc(4ull * n);
	memset(depth, 0xff, 4ull * n);
	uint32_t head = 0, tail = 0;
	queue[tail++] = 0;
	depth[0] = 0;
	while (head < tail) {
		uint32_t u = queue[head++];
		for (uint32_t e = start[u]; e < start[u + 1]; e++) {
			uint32_t v = adjacent[e];
			if (depth[v] == UINT32_MAX) {
				depth[v] = depth[u] + 1;
				queue[tail++] = v;
			}
		}
	}

	double *rank = malloc(8ull * n), *share = malloc(8ull * n);
	for (uint32_t v = 0; v < n; v++)
		rank[v] = 1.0 / n;
	for (int iteration = 0; iteration < atoi(argv[3]); iteration++) {
		for (uint32_t v = 0; v < n; v++) {
			uint32_t degree = start[v + 1] - start[v];
			share[v] = degree ? rank[v] / degree : 0;
		}
		for (uint32_t v = 0; v < n; v++) {
			double sum = 0;
			for (uint32_t e = start[v]; e < start[v + 1]; e++)
				sum += share[adjacent[e]];
			rank[v] = 0.15 / n + 0.85 * sum;
		}
	}
	fprintf(stderr, "reached %u, rank of 0 %g\n", tail, rank[0]);
	return 0;
}
