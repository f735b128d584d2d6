/* Processes that start, fork, unmap, exec and die at random, and watch their data.
 *
 *   churn live  SEED WORKERS FILE     memory comes and goes, half of it on node 1
 *   churn still SEED WORKERS FILE     each puts memory on node 1 and looks at its end
 *                                     whether it is still there
 *
 * FILE holds 64-bit counters (enum below), shared by all; a reader writes 1 to the
 * first to end it. Every page is filled from its mapping's seed and read back whole:
 * a word that differs is `broken`; a page that left node 1 under `still` is `strayed`.
 * The first process keeps so many workers alive and takes in orphans; its exit
 * status is 0 if nothing was broken or strayed. Of three workers under `live` the
 * first stays, with an area of node 1 that it touches all the time; its children
 * come and go.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    STOP, ALIVE, STARTED, FORKED, EXECED, EXITED, KILLED, MAPPED, UNMAPPED, GROWN,
    THREADS, CHECKED, BROKEN, STRAYED, COUNTERS
};
enum { PAGE = 4096, WORDS = PAGE / 8, AREAS = 6, LEAST = 16, MOST = 256 };

typedef struct {
    uint64_t *at;
    size_t pages;
    uint64_t seed;
} Area;

static volatile uint64_t *counter;
static Area area[AREAS];
static uint64_t dice;
static int stays;
static char **words;

static void count(int what, uint64_t n) {
    __atomic_add_fetch(&counter[what], n, __ATOMIC_RELAXED);
}

static uint64_t next(uint64_t *state) { /* xorshift64*: Vigna, 2016 */
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1DULL;
}

static uint64_t roll(uint64_t below) { return next(&dice) % below; }

static void reseed(uint64_t a, uint64_t b) {
    dice = (a * 0x9E3779B97F4A7C15ULL) ^ (b + 1) * 0xBF58476D1CE4E5B9ULL;
    dice += !dice;
    next(&dice);
}

static void nap(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static void bind_to(void *at, size_t bytes, int mode, unsigned long nodes) {
    if (syscall(SYS_mbind, at, bytes, mode, &nodes, 64UL, 0UL)) _exit(71);
}

static void fill(const Area *a) {
    for (size_t page = 0; page < a->pages; page++) {
        uint64_t state = a->seed + page + 1;
        for (size_t i = 0; i < WORDS; i++) a->at[page * WORDS + i] = next(&state);
    }
}

static int is_whole(const Area *a) {
    uint64_t wrong = 0;
    for (size_t page = 0; page < a->pages; page++) {
        uint64_t state = a->seed + page + 1;
        for (size_t i = 0; i < WORDS; i++)
            wrong += a->at[page * WORDS + i] != next(&state);
    }
    count(CHECKED, a->pages);
    if (wrong) {
        fprintf(stderr, "churn: pid %d: %llu words differ\n", getpid(),
                (unsigned long long)wrong);
        count(BROKEN, wrong);
    }
    return !wrong;
}

static void make(Area *a, int node) {
    a->pages = LEAST + roll(MOST - LEAST);
    a->seed = next(&dice) >> 1;
    a->at = mmap(NULL, a->pages * PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (a->at == MAP_FAILED) _exit(72);
    if (node >= 0) bind_to(a->at, a->pages * PAGE, 2, 1UL << node);
    fill(a);
    if (node >= 0) bind_to(a->at, a->pages * PAGE, 0, 0);
    count(MAPPED, 1);
}

static void drop(Area *a) {
    is_whole(a);
    munmap(a->at, a->pages * PAGE);
    a->at = NULL;
    count(UNMAPPED, 1);
}

static void grow(Area *a) { /* it may move to another address */
    Area more = *a;
    more.pages = a->pages + 1 + roll(LEAST);
    more.at = mremap(a->at, a->pages * PAGE, more.pages * PAGE, MREMAP_MAYMOVE);
    if (more.at == MAP_FAILED) return;
    *a = more;
    fill(a);
    count(GROWN, 1);
}

static void touch(const Area *a) { /* a hot area: a byte of each page, often */
    volatile const uint64_t *at = a->at;
    for (int turn = 0; turn < 40; turn++) {
        for (size_t page = 0; page < a->pages; page++) (void)at[page * WORDS];
        nap(2);
    }
}

static void *check_in_thread(void *a) {
    is_whole(a);
    return NULL;
}

static void check_all(void) {
    for (int i = 0; i < AREAS; i++)
        if (area[i].at) is_whole(&area[i]);
}

static void leave(void) {
    check_all();
    count(EXITED, 1);
    _exit(0);
}

static void note_end(int status) {
    count(ALIVE, -1);
    if (WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status) != SIGKILL) {
        fprintf(stderr, "churn: a worker ended with status %#x\n", status);
        count(BROKEN, 1);
    }
}

static void live(void) {
    int status;
    if (stays) make(&area[0], 1);
    for (;;) {
        if (counter[STOP]) leave();
        while (waitpid(-1, &status, WNOHANG) > 0) note_end(status);
        Area *a = &area[roll(AREAS)];
        uint64_t what = roll(100);
        pthread_t thread;
        if (stays) {
            touch(&area[0]);
            if (a == area || (what >= 84 && what < 95)) continue;
        }
        if (!a->at) {
            make(a, roll(2) ? 1 : -1);
        } else if (what < 45) {
            touch(a);
        } else if (what < 62) {
            drop(a);
        } else if (what < 70) {
            grow(a);
        } else if (what < 76) {
            if (!pthread_create(&thread, NULL, check_in_thread, a)) {
                pthread_join(thread, NULL);
                count(THREADS, 1);
            }
        } else if (what < 84) {
            uint64_t seed = next(&dice);
            count(ALIVE, 1);
            pid_t child = fork();
            if (child == 0) { /* all is shared until one of the two writes */
                stays = 0;
                reseed(seed, 1);
                check_all();
            } else if (child > 0) {
                count(FORKED, 1);
                if (!stays && roll(2)) leave(); /* an orphan */
            } else {
                count(ALIVE, -1);
            }
        } else if (what < 90) {
            char seed[24];
            check_all();
            snprintf(seed, sizeof seed, "%llu", (unsigned long long)next(&dice));
            char *again[] = {words[0], "worker", seed, "0", words[4], NULL};
            count(EXECED, 1);
            execv("/proc/self/exe", again);
            _exit(73);
        } else if (what < 93) {
            leave();
        } else if (what < 95) {
            check_all();
            count(KILLED, 1);
            kill(getpid(), SIGKILL);
        } else {
            is_whole(a);
        }
        nap(50 + roll(300));
    }
}

static void still(void) {
    void *address[MOST];
    int status[MOST];
    Area *a = &area[0];
    make(a, 1);
    for (uint64_t left = 5 + roll(60); left && !counter[STOP]; left--) {
        volatile const uint64_t *at = a->at;
        for (size_t page = 0; page < a->pages; page++) (void)at[page * WORDS];
        nap(40);
    }
    for (size_t page = 0; page < a->pages; page++)
        address[page] = (char *)a->at + page * PAGE;
    if (syscall(SYS_move_pages, 0, a->pages, address, NULL, status, 0)) _exit(74);
    for (size_t page = 0; page < a->pages; page++)
        if (status[page] != 1) count(STRAYED, 1);
    leave();
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: churn live|still SEED WORKERS FILE\n");
        return 2;
    }
    words = argv;
    uint64_t seed = strtoull(argv[2], NULL, 10), wanted = strtoull(argv[3], NULL, 10);
    int file = open(argv[4], O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0 || ftruncate(file, COUNTERS * 8)) {
        perror("churn: FILE");
        return 70;
    }
    counter = mmap(NULL, COUNTERS * 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (counter == MAP_FAILED) return 70;
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    if (!strcmp(argv[1], "worker")) {
        reseed(seed, 2);
        live();
    }
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    for (uint64_t born = 0;;) {
        while (!counter[STOP] && counter[ALIVE] < wanted) {
            count(ALIVE, 1);
            count(STARTED, 1);
            born++;
            if (fork() == 0) {
                reseed(seed, born + 2);
                stays = born <= wanted && born % 3 == 1 && argv[1][0] == 'l';
                if (!strcmp(argv[1], "still")) still();
                live();
            }
        }
        int status;
        pid_t ended = waitpid(-1, &status, WNOHANG);
        if (ended > 0) {
            note_end(status);
        } else if (counter[STOP] && ended < 0 && errno == ECHILD) {
            return counter[BROKEN] || counter[STRAYED];
        } else {
            nap(5);
        }
    }
}
