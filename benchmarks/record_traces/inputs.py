"""What the recorded programs work on, made from a seed."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path


def words(rng: random.Random, count: int) -> list[str]:
    """Return ``count`` made-up words of 2 to 12 letters."""
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    weights = [26 - i for i in range(26)]
    return [
        "".join(rng.choices(letters, weights, k=rng.randint(2, 12)))
        for _ in range(count)
    ]


def write_text(path: Path, size_bytes: int, seed: int) -> None:
    """Write prose of skewed words in which a fifth of the paragraphs come again."""
    rng = random.Random(seed)
    vocabulary = words(rng, 20_000)
    weights = [1 / (rank + 2) for rank in range(len(vocabulary))]
    seen: list[bytes] = []
    written = 0
    with path.open("wb") as file:
        while written < size_bytes:
            if seen and rng.random() < 0.2:
                paragraph = rng.choice(seen)
            else:
                drawn = rng.choices(vocabulary, weights, k=rng.randint(30, 200))
                paragraph = " ".join(drawn).encode() + b"\n"
                seen.append(paragraph)
            written += file.write(paragraph)


def write_lines(path: Path, lines: int, seed: int) -> None:
    """Write lines of a random key and a payload, about 130 bytes each."""
    rng = random.Random(seed)
    with path.open("w") as file:
        for line in range(lines):
            key = f"{rng.getrandbits(64):016x}"
            file.write(f"{key} {line:08d} {'payload ' * rng.randint(4, 20)}\n")


def write_warehouse(path: Path, sales: int, customers: int, seed: int) -> None:
    """Write a sqlite star schema: one fact table, two dimensions."""
    rng = random.Random(seed)
    vocabulary = words(rng, 5000)

    def rows() -> Iterator[tuple[int, int, int, int, int, str]]:
        for sale in range(sales):
            buyer = int(customers * rng.random() ** 2)
            note = " ".join(rng.choices(vocabulary, k=110))
            yield (
                sale,
                buyer,
                rng.randrange(2000),
                sale * 365 // sales,
                rng.randint(1, 9),
                note,
            )

    with sqlite3.connect(path) as database:
        database.executescript(
            "PRAGMA page_size=4096; PRAGMA journal_mode=OFF;"
            "CREATE TABLE sale(id INTEGER PRIMARY KEY, customer INT, product INT,"
            " day INT, quantity INT, note TEXT);"
            "CREATE TABLE customer(id INTEGER PRIMARY KEY, region INT, name TEXT);"
            "CREATE TABLE product(id INTEGER PRIMARY KEY, category INT, price INT);"
        )
        database.executemany("INSERT INTO sale VALUES(?,?,?,?,?,?)", rows())
        database.executemany(
            "INSERT INTO customer VALUES(?,?,?)",
            (
                (i, rng.randrange(12), " ".join(rng.choices(vocabulary, k=8)))
                for i in range(customers)
            ),
        )
        database.executemany(
            "INSERT INTO product VALUES(?,?,?)",
            ((i, rng.randrange(40), rng.randint(1, 500)) for i in range(2000)),
        )
    database.close()


WAREHOUSE_QUERIES = """\
PRAGMA mmap_size=268435456;
PRAGMA temp_store=MEMORY;
SELECT category, region, sum(quantity * price) FROM sale
  JOIN product ON product.id = sale.product
  JOIN customer ON customer.id = sale.customer GROUP BY 1, 2;
SELECT customer.name, t.spent FROM
  (SELECT customer, sum(quantity) AS spent FROM sale GROUP BY 1) AS t
  JOIN customer ON customer.id = t.customer ORDER BY 2 DESC LIMIT 100;
SELECT day / 30, count(*), max(quantity) FROM sale GROUP BY 1;
"""


def write_c_source(path: Path, types: int, functions: int, seed: int) -> None:
    """Write a C file: many declarations, as headers give, and some functions."""
    rng = random.Random(seed)
    out = ["typedef unsigned long u64;", "extern u64 table[4096];"]
    for t in range(types):
        fields = " ".join(f"u64 m{t}_{i};" for i in range(rng.randint(2, 12)))
        out.append(
            f"struct s{t} {{ struct s{rng.randint(0, t)} *next; {fields} u64 k; }};"
        )
        out.append(f"extern u64 g{t}(struct s{t} *, u64, const char *name);")
        out.append(f"enum e{t} {{ " + ", ".join(f"E{t}_{i}" for i in range(6)) + " };")
    for f in range(functions):
        t = rng.randrange(types)
        out.append(f"u64 f{f}(struct s{t} *n, u64 a, int c)\n{{")
        out.append("  u64 x = a;")
        for _ in range(rng.randint(1, 4)):
            k, m = rng.randrange(1, 4096), rng.randrange(1, 63)
            out.append(
                rng.choice(
                    (
                        f"  for (int i = 0; i < c; i++) x += table[(i + {m}) & 4095];",
                        f"  if (x > {k}) n->k ^= x >> {m}; else x *= {k};",
                        f'  x += g{t}(n, x ^ {k}, "f{f}");',
                        f"  x = (x << {m}) | (x >> {64 - m});",
                    )
                )
            )
        out.append("  return x + n->k;\n}")
    path.write_text("\n".join(out) + "\n")
