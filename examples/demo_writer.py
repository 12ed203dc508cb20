"""A bank: moves money between accounts until standard input ends, and says for each line there how many transfers it has made. An ordinary
sqlite3 program that knows nothing of snapshim."""

import os
import random
import select
import sqlite3
import sys

ACCOUNTS = 20_000

bank = sqlite3.connect(sys.argv[1], isolation_level=None)
bank.executescript(
    """PRAGMA journal_mode = WAL;
    PRAGMA synchronous = OFF;
    PRAGMA wal_autocheckpoint = 100;
    CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, owner TEXT);"""
)
bank.execute("BEGIN")
owner = "x" * 200
bank.executemany("INSERT INTO account VALUES (?, 1000, ?)", ((number, owner) for number in range(ACCOUNTS)))
bank.execute("COMMIT")
print("ready", flush=True)

moved = 0
while True:
    if select.select([0], [], [], 0)[0]:
        if not os.read(0, 1):
            break
        print(moved, flush=True)
    bank.execute("BEGIN IMMEDIATE")
    for _ in range(8):
        source, target, amount = random.randrange(ACCOUNTS), random.randrange(ACCOUNTS), random.randrange(100)
        bank.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, source))
        bank.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, target))
        moved += 1
    bank.execute("COMMIT")
