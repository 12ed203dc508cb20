"""Backs a live database up, slowly, from two mappings of one moment: a plain private one, and a snapshot."""

import ctypes
import hashlib
import mmap
import os
import sqlite3
import subprocess
import sys
import time

MAP_SNAPSHOT = 0x01000000
PAGE = 4096
SECONDS = 3

directory = sys.argv[1]
path = os.path.join(directory, "bank.db")


class Stat(ctypes.Structure):
    _fields_ = [("state", ctypes.c_int), ("reserved", ctypes.c_int)] + [
        (name, ctypes.c_uint64) for name in ("size", "pages", "preserved", "bytes_held")
    ]


def stat_of(mapping):
    """What snapshim_stat() says: through ctypes, because this is not C."""
    stat = Stat()
    first = ctypes.c_char.from_buffer(mapping)
    try:
        describe = getattr(ctypes.CDLL(None, use_errno=True), "__snapshim_stat")
        if describe(ctypes.c_void_p(ctypes.addressof(first)), ctypes.byref(stat)) != 0:
            sys.exit("the mapping is no snapshot")
        return stat
    finally:
        del first


def checksum(data):
    return hashlib.sha256(data).hexdigest()[:16]


def judge(name, data):
    """Opens a backup as a database; what it says of itself."""
    copy = os.path.join(directory, f"{name}.db")
    with open(copy, "wb") as file:
        file.write(data)
    try:
        backup = sqlite3.connect(copy)
        sound = backup.execute("PRAGMA integrity_check").fetchone()[0].splitlines()[0]
        money = backup.execute("SELECT sum(balance) FROM account").fetchone()[0]
        return sound == "ok" and money == 20_000_000, f"integrity: {sound}; money: {money:,} of 20,000,000"
    except sqlite3.DatabaseError as error:
        return False, f"not readable: {error}"


writer = subprocess.Popen(
    [sys.executable, os.path.join(os.path.dirname(__file__), "demo_writer.py"), path],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)
if writer.stdout.readline() != "ready\n":
    sys.exit("the writer did not start")
time.sleep(0.3)

# A read lock for the moment in which the mappings are made: the moment is then one between two transactions.
file = open(path, "rb")
lock = sqlite3.connect(path, isolation_level=None, timeout=60)
lock.execute("BEGIN")
lock.execute("SELECT count(*) FROM sqlite_schema").fetchone()
size = os.fstat(file.fileno()).st_size
started = time.perf_counter()
access = mmap.PROT_READ | mmap.PROT_WRITE
snapshot = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE | MAP_SNAPSHOT, prot=access)
took = time.perf_counter() - started
plain = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=access)
before = checksum(snapshot), checksum(plain)
lock.execute("ROLLBACK")
print(f"mapped {size:,} bytes twice; the snapshot took {took * 1e6:.0f} us. The bank goes on for {SECONDS} s while both are backed up.\n")

backups = bytearray(), bytearray()
step = (size // 60 // PAGE + 1) * PAGE
for start in range(0, size, step):
    for backup, mapping in zip(backups, (snapshot, plain)):
        backup += mapping[start : start + step]
    time.sleep(SECONDS / 60)

writer.stdin.close()
moved = int(writer.stdout.read())
after = checksum(snapshot), checksum(plain)
file.seek(0)
now = file.read()
changed = sum(now[at : at + PAGE] != snapshot[at : at + PAGE] for at in range(0, size, PAGE))
stat = stat_of(snapshot)

sound = {}
for name, backup, first, last in zip(("snapshot", "plain"), backups, before, after):
    sound[name], verdict = judge(name, backup)
    print(f"{name:>8}: checksum {first} -> {last} ({'same' if first == last else 'CHANGED'})")
    print(f"          backup from it: {verdict} -> {'good' if sound[name] else 'TORN'}")
print(f"\n{moved:,} transfers since the bank opened; {changed:,} of {size // PAGE:,} pages of the file are different now.")
print(f"The snapshot preserved {stat.preserved:,} pages and holds {stat.bytes_held / 1e6:.1f} MB for it; state {('exact', 'doubtful', 'broken')[stat.state]}.")
sys.exit(0 if sound["snapshot"] and before[0] == after[0] and stat.state == 0 else 1)
