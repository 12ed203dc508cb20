"""A disk image that qemu-nbd serves and a client writes, taken by `snapshim export`. Usage: vm_image.py [COPIES]

You learn that `snapshim export disk.img --nbd unix:SOCKET` serves an image as it was at one instant, to nbdcopy, qemu-img or a virtual
machine, while the server of the image goes on writing it. The client writes a number into the first block and then into the last, so
the last is never ahead of the first, and at most one behind."""

import os
import struct
import subprocess
import sys
import time

from recipe import SNAPSHIM, compare, fresh, live, need, path, stop

need("qemu-nbd", "qemu-img", "qemu-io", "nbdcopy", "nbdkit")
if not os.path.exists("/dev/fuse"):
    print("SKIPPED: there is no /dev/fuse")
    sys.exit(77)
SIZE, BLOCK = 64 << 20, 64 << 10
image, served = os.path.join(fresh("live"), "disk.img"), path("served")
with open(image, "wb") as file:
    file.write(b"\1" * SIZE)


def wait_for(socket):
    while not os.path.exists(socket):
        time.sleep(0.02)


server = live("qemu-nbd", "--format=raw", "--persistent", "--shared=4", f"--socket={served}", image)
wait_for(served)
client = subprocess.Popen(
    ["qemu-io", "-f", "raw", f"nbd+unix:///?socket={served}"],
    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
)
if os.fork() == 0:
    try:
        while True:
            for number in range(2, 255):
                client.stdin.write(f"write -P {number} 0 {BLOCK}\nwrite -P {number} {SIZE - BLOCK} {BLOCK}\n")
    finally:
        os._exit(0)
client.stdin.close()


def by_export(copy):
    socket = path("export")
    export = subprocess.Popen([SNAPSHIM, "export", image, "--nbd", f"unix:{socket}"])
    wait_for(socket)
    subprocess.run(["nbdcopy", f"nbd+unix:///?socket={socket}", f"{copy}/disk.img"], check=True)
    # The same image again, by another client.
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", f"nbd+unix:///?socket={socket}", f"{copy}/disk.img"], check=True)
    export.terminate()
    if export.wait() != 0 or os.path.exists(socket):
        sys.exit("the export did not end as it should")


def is_good(copy):
    with open(f"{copy}/disk.img", "rb") as file:
        first = file.read(BLOCK)
        file.seek(SIZE - BLOCK)
        last = file.read(BLOCK)
    # A write of the client is one call of the server's: each block is whole.
    whole = all(block == block[:1] * BLOCK for block in (first, last))
    return whole and (first[0] - last[0]) % 253 <= 1


status = compare(
    int(sys.argv[1]) if len(sys.argv) > 1 else 5,
    [("snapshim export", by_export), ("cp", lambda copy: subprocess.run(["cp", image, copy], check=True))],
    is_good,
)
client.kill()
stop(server)
sys.exit(status)
