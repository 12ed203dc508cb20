"""Backs a live database up many times, by cp and by snapshim cp, and looks at each backup."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time

BACKUPS = 25
MONEY = 20_000_000

directory = sys.argv[1]
files = [os.path.join(directory, "bank.db" + end) for end in ("", "-wal", "-shm")]
copy = os.path.join(directory, "backup")


def judge():
    """Opens a backup as a database; None if it is good, else what is wrong."""
    try:
        backup = sqlite3.connect(os.path.join(copy, "bank.db"))
        sound = backup.execute("PRAGMA integrity_check").fetchone()[0].splitlines()[0]
        money = backup.execute("SELECT sum(balance) FROM account").fetchone()[0]
        backup.close()
    except sqlite3.DatabaseError as error:
        return f"it cannot be read: {error}"
    if sound != "ok":
        return f"it is damaged: {sound}"
    return None if money == MONEY else f"money: {money:,} instead of {MONEY:,}"


def transfers():
    """How many transfers the bank has made."""
    os.write(asking, b"\n")
    return int(bank.stdout.readline())


def of_a_second(seconds):
    started, before = time.perf_counter(), transfers()
    time.sleep(seconds)
    return (transfers() - before) / (time.perf_counter() - started)


print("$ snapshim run -- python3 demo_writer.py bank.db &")
writer = os.path.join(os.path.dirname(__file__), "demo_writer.py")
bank = subprocess.Popen(
    ["snapshim", "run", "--", sys.executable, writer, files[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)
asking = bank.stdin.fileno()
if bank.stdout.readline() != "ready\n":
    sys.exit("the bank did not open")
time.sleep(0.5)
alone = of_a_second(1)
print(f"The bank is open: 20,000 accounts, {MONEY:,} in all, {alone:,.0f} transfers a second.\n")

wrong, took, example, made = {}, {}, {}, {}
for command in ["cp"], ["snapshim", "cp"]:
    name = " ".join(command)
    print(f"$ {name} bank.db bank.db-wal bank.db-shm backup/      # {BACKUPS} times")
    wrong[name], took[name], made[name] = 0, 0.0, 0
    for _ in range(BACKUPS):
        shutil.rmtree(copy, ignore_errors=True)
        os.mkdir(copy)
        before, started = transfers(), time.perf_counter()
        subprocess.run([*command, *files, copy], check=True)
        took[name] += time.perf_counter() - started
        made[name] += transfers() - before
        verdict = judge()
        wrong[name] += verdict is not None
        example[name] = verdict or example.get(name)
bank.stdin.close()
bank.wait()

print(f"\n{'':>12}  wrong backups  one takes  transfers a second meanwhile")
for name in wrong:
    pace = made[name] / took[name]
    print(f"{name:>12}  {wrong[name]:>5} of {BACKUPS:<5}  {took[name] / BACKUPS * 1000:>5.0f} ms  {pace:>9,.0f} ({pace / alone:.0%})")
    if example[name]:
        print(f"{'':>12}  the last of them: {example[name]}")
sys.exit(wrong["snapshim cp"] != 0)
