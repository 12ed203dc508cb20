"""A live SQLite database in WAL mode: its three files are one group. Usage: sqlite_wal.py [COPIES]

You learn that `snapshim cp bank.db bank.db-wal bank.db-shm backup/` is a good backup at any time, without a lock and without asking the
program that writes; and that `cp` of the same files, one after the other, is not. In the bank money is moved; its sum never changes."""

import sqlite3
import subprocess
import sys

from recipe import compare, fresh, path, python, snapshim, stop

ACCOUNTS = 20_000
WRITER = f"""
import random, sqlite3, sys
bank = sqlite3.connect(sys.argv[1], isolation_level=None)
bank.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 100;")
bank.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, owner TEXT)")
bank.execute("BEGIN")
bank.executemany("INSERT INTO account VALUES (?, 1000, ?)", ((number, "x" * 200) for number in range({ACCOUNTS})))
bank.execute("COMMIT")
print("ready", flush=True)
while True:
    bank.execute("BEGIN IMMEDIATE")
    for _ in range(8):
        source, target = random.randrange({ACCOUNTS}), random.randrange({ACCOUNTS})
        bank.execute("UPDATE account SET balance = balance - 1 WHERE id = ?", (source,))
        bank.execute("UPDATE account SET balance = balance + 1 WHERE id = ?", (target,))
    bank.execute("COMMIT")
"""

fresh("live")
FILES = [path("live", f"bank.db{end}") for end in ("", "-wal", "-shm")]


def is_good(copy):
    try:
        bank = sqlite3.connect(f"{copy}/bank.db")
        sound = bank.execute("PRAGMA integrity_check").fetchone()[0]
        money = bank.execute("SELECT sum(balance) FROM account").fetchone()[0]
        bank.close()
        return sound == "ok" and money == 1000 * ACCOUNTS
    except sqlite3.DatabaseError:
        return False


def by_cp(copy):
    for file in FILES[:2]:
        subprocess.run(["cp", file, copy], check=True)


writer = python(WRITER, FILES[0])
status = compare(
    int(sys.argv[1]) if len(sys.argv) > 1 else 20,
    [("snapshim cp, one group", lambda copy: snapshim("cp", *FILES, copy)), ("cp, one file after the other", by_cp)],
    is_good,
)
stop(writer)
sys.exit(status)
