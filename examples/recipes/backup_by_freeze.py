"""A directory that is written, backed up by restic and by borg. Usage: backup_by_freeze.py [BACKUPS]

You learn that `snapshim freeze DIR -- restic backup DIR` lets any backup program see all files of a directory as they were at one
instant, under their own names, while the programs that write them go on. What is restored is checked: the file `second` is written
after `first` each time, so it is never ahead of it, and at most one number behind."""

import os
import shutil
import subprocess
import sys

from recipe import fresh, path, python, stop

WRITER = """
import os, sys
files = [os.open(f"{sys.argv[1]}/{name}", os.O_RDWR | os.O_CREAT, 0o644) for name in ("first", "second")]
number = 1
while True:
    for file in files:
        os.pwrite(file, number.to_bytes(8, "little") * 512, number % 2048 * 4096)
    if number == 2048:
        print("ready", flush=True)
    number += 1
"""

fresh("live")
os.environ.update(RESTIC_PASSWORD="recipe", RESTIC_REPOSITORY=path("restic"), RESTIC_CACHE_DIR=path("cache"))
os.environ.update(BORG_REPO=path("borg"), BORG_BASE_DIR=path("borg-base"), BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes")


def quiet(*command, **how):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)
    # borg has a warning, and the status 1, for a file that changed while it was read.
    if done.returncode > (command[0] == "borg"):
        sys.exit(f"{command}: {done.stdout}")


TOOLS = {
    "restic": (("init",), ("backup", path("live")), lambda: quiet("restic", "restore", "latest", "--target", fresh("restored"))),
    "borg": (
        ("init", "--encryption", "none"),
        ("create", "::{now:%H%M%S%f}", path("live")),
        lambda: quiet("borg", "extract", "::" + newest(), cwd=fresh("restored")),
    ),
}


def newest():
    return subprocess.run(["borg", "list", "--short", "--last", "1"], stdout=subprocess.PIPE, text=True).stdout.strip()


def is_good():
    first, second = (open(path("restored") + path("live", name), "rb").read() for name in ("first", "second"))
    blocks = [[data[at : at + 8] * 512 == data[at : at + 4096] for at in range(0, len(data), 4096)] for data in (first, second)]
    numbers = [[int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 4096)] for data in (first, second)]
    newest = [max(each) for each in numbers]
    in_order = all(sorted(each) == list(range(max(each) - len(each) + 1, max(each) + 1)) for each in numbers)
    return all(map(all, blocks)) and in_order and 0 <= newest[0] - newest[1] <= 1


tools = [tool for tool in TOOLS if shutil.which(tool)]
if not tools or not os.path.exists("/dev/fuse"):
    print("SKIPPED: neither restic nor borg is installed" if not tools else "SKIPPED: there is no /dev/fuse")
    sys.exit(77)
writer = python(WRITER, path("live"))
tries, wrong = int(sys.argv[1]) if len(sys.argv) > 1 else 2, 0
for tool in tools:
    begin, backup, restore = TOOLS[tool]
    quiet(tool, *begin)
    for way in ((), ("snapshim", "freeze", path("live"), "--")):
        bad = 0
        for _ in range(tries):
            quiet(*way, tool, *backup)
            restore()
            bad += not is_good()
        wrong += bad if way else 0
        print(f"{'snapshim freeze, ' if way else ''}{tool}: {bad} of {tries} backups are wrong")
stop(writer)
sys.exit(wrong != 0)
