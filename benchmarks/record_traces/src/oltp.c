/* Short transactions on sqlite: look-ups by an index, updates, short ranges.
 *
 *   oltp build DB ROWS SEED      make the table (run it without valgrind)
 *   oltp run DB TRANSACTIONS SEED
 */
#include <sqlite3.h>

#include "common.h"

static sqlite3 *db;

static void must(int rc, const char *what)
{
	if (rc != SQLITE_OK && rc != SQLITE_DONE && rc != SQLITE_ROW) {
		fprintf(stderr, "%s: %s\n", what, sqlite3_errmsg(db));
		exit(1);
	}
}

static sqlite3_stmt *prepare(const char *sql)
{
	sqlite3_stmt *statement;
	must(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), sql);
	return statement;
}

static int64_t run(sqlite3_stmt *statement)
{
	int64_t sum = 0;
	int rc;
	while ((rc = sqlite3_step(statement)) == SQLITE_ROW)
		sum += sqlite3_column_int64(statement, 0);
	must(rc, "step");
	sqlite3_reset(statement);
	return sum;
}

static void account(char *name, uint64_t id)
{
	/* Account numbers do not follow ids: the index is a random order. */
	sprintf(name, "ACC-%016llx", (unsigned long long)(id * 0x9E3779B97F4A7C15ull));
}

static void build(uint64_t rows)
{
	char name[32], filler[101];
	must(sqlite3_exec(db,
		"PRAGMA page_size=4096; PRAGMA journal_mode=OFF; BEGIN;"
		"CREATE TABLE account(id INTEGER PRIMARY KEY, number TEXT, balance INTEGER,"
		" filler TEXT);"
		"CREATE TABLE history(account INTEGER, delta INTEGER, note TEXT);",
		NULL, NULL, NULL), "schema");
	sqlite3_stmt *insert = prepare("INSERT INTO account VALUES(?,?,?,?)");
	for (uint64_t id = 0; id < rows; id++) {
		account(name, id);
		for (int i = 0; i < 100; i++)
			filler[i] = 'a' + next_random() % 26;
		filler[100] = 0;
		sqlite3_bind_int64(insert, 1, (int64_t)id);
		sqlite3_bind_text(insert, 2, name, -1, SQLITE_STATIC);
		sqlite3_bind_int64(insert, 3, (int64_t)(next_random() % 100000));
		sqlite3_bind_text(insert, 4, filler, -1, SQLITE_STATIC);
		run(insert);
	}
	sqlite3_finalize(insert);
	must(sqlite3_exec(db, "CREATE UNIQUE INDEX by_number ON account(number); COMMIT;",
		NULL, NULL, NULL), "index");
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	uint64_t n = strtoull(argv[3], NULL, 10);
	state = strtoull(argv[4], NULL, 10);
	must(sqlite3_open(argv[2], &db), "open");
	if (!strcmp(argv[1], "build")) {
		build(n);
		return sqlite3_close(db);
	}
	must(sqlite3_exec(db,
		"PRAGMA cache_size=-131072; PRAGMA journal_mode=MEMORY;"
		"PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;",
		NULL, NULL, NULL), "pragma");
	sqlite3_stmt *begin = prepare("BEGIN"), *commit = prepare("COMMIT");
	sqlite3_stmt *find = prepare("SELECT balance FROM account WHERE number=?");
	sqlite3_stmt *change = prepare("UPDATE account SET balance=balance+? WHERE id=?");
	sqlite3_stmt *log = prepare("INSERT INTO history VALUES(?,?,'transfer')");
	sqlite3_stmt *range = prepare(
		"SELECT balance FROM account WHERE id>=? ORDER BY id LIMIT 20");
	uint64_t rows = (uint64_t)run(prepare("SELECT max(id)+1 FROM account"));
	int64_t sum = 0;
	char name[32];
	for (uint64_t i = 0; i < n; i++) {
		uint64_t id = scatter(next_rank(rows, 4.0), rows);
		uint64_t kind = next_random() % 100;
		if (kind < 60) {
			account(name, id);
			sqlite3_bind_text(find, 1, name, -1, SQLITE_STATIC);
			sum += run(find);
		} else if (kind < 90) {
			int64_t delta = (int64_t)(next_random() % 200) - 100;
			run(begin);
			sqlite3_bind_int64(change, 1, delta);
			sqlite3_bind_int64(change, 2, (int64_t)id);
			run(change);
			sqlite3_bind_int64(log, 1, (int64_t)id);
			sqlite3_bind_int64(log, 2, delta);
			run(log);
			run(commit);
		} else {
			sqlite3_bind_int64(range, 1, (int64_t)id);
			sum += run(range);
		}
	}
	fprintf(stderr, "sum %lld\n", (long long)sum);
	return 0;
}
