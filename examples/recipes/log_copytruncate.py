"""A log that logrotate copies and truncates. Usage: log_copytruncate.py [READINGS]

You learn that `snapshim cat log` gives a slow reader the whole log as it was at one instant, although it is cut to nothing meanwhile, and
that `cat` loses the rest. The lines are numbered."""

import os
import subprocess
import sys
import time

from recipe import SNAPSHIM, fresh, live, need, path, python, stop

need("logrotate")
WRITER = """
import os, sys, time
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
print("ready", flush=True)
number = 0
while True:
    os.write(log, b"%d %s\\n" % (number, b"x" * 100))
    number += 1
    if number % 10 == 0:
        time.sleep(0.0001)
"""
log = os.path.join(fresh("live"), "log")
with open(path("rotate"), "w") as rules:
    rules.write(f"{log} {{\n copytruncate\n rotate 2\n su root root\n}}\n" if os.geteuid() == 0 else f"{log} {{\n copytruncate\n rotate 2\n}}\n")
os.chmod(path("rotate"), 0o644)


def lines(reader):
    """Reads slowly, with a rotation meanwhile; how many lines were there at the start, and how many came without a gap."""
    there = os.path.getsize(log)
    read = reader.stdout.read(4096)
    rotation = live("logrotate", "-f", "-s", path("state"), path("rotate"))
    rotation.wait()
    time.sleep(0.05)
    read += reader.stdout.read()
    status = reader.wait()
    numbers = [int(line.split()[0]) for line in read.split(b"\n")[:-1] if line.split()]
    return status == 0 and len(read) >= there and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


writer = python(WRITER, log)
tries, wrong = int(sys.argv[1]) if len(sys.argv) > 1 else 5, {}
for name, command in ("snapshim cat", [SNAPSHIM, "cat", log]), ("cat", ["cat", log]):
    wrong[name] = 0
    for _ in range(tries):
        time.sleep(0.3)
        wrong[name] += not lines(subprocess.Popen(command, stdout=subprocess.PIPE))
    print(f"{name}: {wrong[name]} of {tries} readings lost lines")
stop(writer)
sys.exit(wrong["snapshim cat"] != 0)
