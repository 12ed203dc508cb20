"""SQLite with its database mapped and a write-ahead log, whose index is a shared mapping: PROGRAM FILE NAME inserts 100 rows, each a
transaction of its own, checks the database now and then, and prints how many rows of its own it finds in the end."""

import sqlite3
import sys

path, name = sys.argv[1:]
database = sqlite3.connect(path, timeout=60, isolation_level=None)
database.execute("PRAGMA mmap_size=268435456")
assert database.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
database.execute("CREATE TABLE IF NOT EXISTS entries (name TEXT, number INTEGER, filler TEXT)")
for number in range(100):
    database.execute("INSERT INTO entries VALUES (?, ?, ?)", (name, number, "x" * (number * 37 % 3000)))
    if number % 25 == 24:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.execute("PRAGMA wal_checkpoint(PASSIVE)")
rows = database.execute("SELECT number FROM entries WHERE name = ? ORDER BY number", (name,)).fetchall()
assert rows == [(number,) for number in range(100)], rows
print(len(rows))
