"""LMDB, which stores through a shared mapping (writemap), written while snapshots are taken of it.

    PROGRAM write DATABASE             commits transactions until its standard input ends; prints "ready" after the first
    PROGRAM snap DATABASE COPY COUNT   writes COUNT snapshots to COPY, one after the other, and walks each as a database
    PROGRAM walk DATABASE              walks the database itself

Transaction N puts N into every one of its keys, and moves one key, whose name follows from N, so that pages are split and freed.
"""

import mmap
import os
import sys
import time

import lmdb

MAP_SNAPSHOT = 0x01000000
KEYS = [b"key %d" % number for number in range(200)]
SIZE = 16 << 20


def value(key, number):
    return b"%d %s " % (number, key) * (1 + (number + len(key)) % 9)


def write(database_path):
    database = lmdb.open(database_path, map_size=SIZE, writemap=True, sync=False, subdir=False)
    os.set_blocking(0, False)
    number = 0
    while True:
        number += 1
        with database.begin(write=True) as transaction:
            transaction.delete(b"moved %d" % (number - 1))
            transaction.put(b"moved %d" % number, b"")
            for key in KEYS:
                transaction.put(key, value(key, number))
        if number == 3:
            print("ready", flush=True)
        try:
            if os.read(0, 1) == b"":
                break
        except BlockingIOError:
            pass
    print("transactions", number)


def walk(path):
    """The transaction that the database is of."""
    database = lmdb.open(path, map_size=SIZE, readonly=True, lock=False, subdir=False)
    with database.begin() as transaction:
        found = dict(transaction.cursor())
        assert transaction.stat()["entries"] == len(found) == len(KEYS) + 1, len(found)
    database.close()
    (moved,) = [key for key in found if key.startswith(b"moved")]
    number = int(moved.split()[1])
    for key in KEYS:
        assert found[key] == value(key, number), (number, key, found[key][:40])
    return number


def snap(database_path, copy, count):
    numbers = []
    with open(database_path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(count):
            snapshot = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE | MAP_SNAPSHOT, prot=mmap.PROT_READ)
            # In pieces, so that the writer comes in between.
            with open(copy, "wb") as out:
                for at in range(0, size, 1 << 16):
                    out.write(snapshot[at : at + (1 << 16)])
                    time.sleep(0)
            numbers.append(walk(copy))
            snapshot.close()
    assert numbers == sorted(numbers) and numbers[0] < numbers[-1], numbers
    print("walked", len(numbers), "of", numbers[-1], "transactions")


if sys.argv[1] == "write":
    write(sys.argv[2])
elif sys.argv[1] == "walk":
    print(walk(sys.argv[2]))
else:
    snap(sys.argv[2], sys.argv[3], int(sys.argv[4]))
