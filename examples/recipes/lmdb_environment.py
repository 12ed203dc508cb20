"""A live LMDB environment, copied without its library. Usage: lmdb_environment.py [COPIES]

You learn that `snapshim cp data.mdb` is a good backup while a process writes, in the default mode, in which LMDB writes by pwrite(2), and
with MDB_WRITEMAP, in which it stores into a shared mapping; and that the same `cp` is not. The sum of all values never changes."""

import struct
import subprocess
import sys

from recipe import compare, fresh, need_module, path, python, snapshim, stop

lmdb = need_module("lmdb")
KEYS = 5000
WRITER = f"""
import lmdb, random, struct, sys
env = lmdb.open(sys.argv[1], map_size=1 << 26, writemap=sys.argv[2] == "writemap", map_async=True, sync=False, metasync=False)
pack = lambda value: struct.pack("q", value) + b"x" * 200
with env.begin(write=True) as change:
    for number in range({KEYS}):
        change.put(b"%06d" % number, pack(1000))
print("ready", flush=True)
while True:
    with env.begin(write=True) as change:
        for _ in range(4):
            for key, more in ((random.randrange({KEYS}), -1), (random.randrange({KEYS}), 1)):
                value = struct.unpack("q", change.get(b"%06d" % key)[:8])[0]
                change.put(b"%06d" % key, pack(value + more))
"""
CHECK = """
import lmdb, struct, sys
with lmdb.open(sys.argv[1], readonly=True, lock=False, map_size=1 << 26).begin() as read:
    print(read.stat()["entries"], sum(struct.unpack("q", value[:8])[0] for _, value in read.cursor()))
"""


def is_good(copy):
    # In a process of its own: a damaged environment may crash its reader.
    said = subprocess.run([sys.executable, "-c", CHECK, copy], capture_output=True, text=True)
    return said.returncode == 0 and said.stdout.split() == [str(KEYS), str(1000 * KEYS)]


status = 0
for kind in "default", "writemap":
    environment = fresh(f"live-{kind}")
    writer = python(WRITER, environment, kind)
    print(f"{kind}:")
    status |= compare(
        int(sys.argv[1]) if len(sys.argv) > 1 else 20,
        [
            ("snapshim cp", lambda copy: snapshim("cp", f"{environment}/data.mdb", copy)),
            ("cp", lambda copy: subprocess.run(["cp", f"{environment}/data.mdb", copy], check=True)),
        ],
        is_good,
    )
    stop(writer)
sys.exit(status)
