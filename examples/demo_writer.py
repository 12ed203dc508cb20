"""A bank: moves money between accounts until standard input ends. An ordinary sqlite3 program that knows nothing of snapshim."""

import random
import select
import sqlite3
import sys

ACCOUNTS = 20_000

bank = sqlite3.connect(sys.argv[1], isolation_level=None)
bank.executescript(
    """PRAGMA synchronous = OFF;
    CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, owner TEXT);
    CREATE TABLE transfer (id INTEGER PRIMARY KEY, source INTEGER, target INTEGER, amount INTEGER);"""
)
bank.execute("BEGIN")
owner = "x" * 200
bank.executemany("INSERT INTO account VALUES (?, 1000, ?)", ((number, owner) for number in range(ACCOUNTS)))
bank.execute("COMMIT")
print("ready", flush=True)

moved = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    bank.execute("BEGIN IMMEDIATE")
    for _ in range(20):
        source, target, amount = random.randrange(ACCOUNTS), random.randrange(ACCOUNTS), random.randrange(100)
        bank.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, source))
        bank.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, target))
        bank.execute("INSERT INTO transfer VALUES (NULL, ?, ?, ?)", (source, target, amount))
        moved += 1
    bank.execute("COMMIT")
print(moved)
