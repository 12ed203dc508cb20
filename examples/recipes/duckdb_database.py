"""A live DuckDB database: the file and its write-ahead log are one group. Usage: duckdb_database.py [COPIES]

You learn that `snapshim cp -r` of their directory can be opened at any time and holds whole transactions, while the process that has the
database open goes on: DuckDB itself lets no other process read it. Both tables have always the same number of rows."""

import subprocess
import sys

from recipe import compare, fresh, need_module, path, python, snapshim, stop

need_module("duckdb")
WRITER = """
import duckdb, sys
bank = duckdb.connect(sys.argv[1])
bank.execute("PRAGMA wal_autocheckpoint = '64KB'")
for name in "debit", "credit":
    bank.execute(f"CREATE TABLE {name} (id BIGINT, amount BIGINT, text VARCHAR)")
bank.execute("CHECKPOINT")
print("ready", flush=True)
number = 0
while True:
    bank.execute("BEGIN")
    for name in "debit", "credit":
        bank.execute(f"INSERT INTO {name} SELECT {number} + range, range, repeat('x', 100) FROM range(200)")
    bank.execute("COMMIT")
    number += 200
"""
CHECK = """
import duckdb, sys
copy = duckdb.connect(sys.argv[1])
count = lambda name: copy.execute(f"SELECT count(*), sum(amount), max(id) FROM {name}").fetchone()
assert count("debit") == count("credit")
"""


def is_good(copy):
    said = subprocess.run([sys.executable, "-c", CHECK, f"{copy}/live/bank.db"], capture_output=True, text=True)
    return said.returncode == 0


fresh("live")
writer = python(WRITER, path("live", "bank.db"))
status = compare(
    int(sys.argv[1]) if len(sys.argv) > 1 else 10,
    [
        ("snapshim cp -r", lambda copy: snapshim("cp", "-r", path("live"), copy)),
        ("cp -r", lambda copy: subprocess.run(["cp", "-r", path("live"), copy], check=False, stderr=subprocess.DEVNULL)),
    ],
    is_good,
)
stop(writer)
sys.exit(status)
