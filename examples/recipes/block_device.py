"""A block device with a file system that fuse2fs writes. Usage: block_device.py [COPIES]

You learn that `snapshim cp /dev/DEVICE disk.img` takes a whole block device as it was at one instant, if a program writes it (a device that
the kernel itself has mounted cannot be taken). The image is checked as after a crash: e2fsck replays what the journal has and finds nothing
else wrong, and the file in it is whole: its two halves are written one after the other, with the same number."""

import os
import subprocess
import sys
import time

from recipe import compare, fresh, live, need, path, stop

need("fuse2fs", "losetup", "mkfs.ext4", "e2fsck", "debugfs")
if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
    print("SKIPPED: it needs root and /dev/fuse")
    sys.exit(77)
HALF = 4 << 20
WRITER = f"""
import os, sys
file = os.open(sys.argv[1], os.O_RDWR)
number = 2
while True:
    for half in range(2):
        for at in range(0, {HALF}, 65536):
            os.pwrite(file, bytes([number]) * 65536, half * {HALF} + at)
            if number == 3 and at == 0 and half == 0:
                print("ready", flush=True)
    number = number % 254 + 1
"""
fresh("live")
with open(path("disk"), "wb") as file:
    file.truncate(64 << 20)
subprocess.run(["mkfs.ext4", "-q", path("disk")], check=True)
done = subprocess.run(["losetup", "-f", "--show", path("disk")], stdout=subprocess.PIPE, text=True)
if done.returncode != 0:
    print("SKIPPED: there are no loop devices")
    sys.exit(77)
device = done.stdout.strip()
server = live("fuse2fs", "-f", device, path("live"), stderr=subprocess.DEVNULL)
writer = server
try:
    while not os.path.ismount(path("live")):
        time.sleep(0.02)
    with open(path("live", "file"), "wb") as file:
        file.write(b"\1" * (2 * HALF))
        os.fsync(file.fileno())
    # The program that writes the device runs under the library. One that writes a file of the file system writes no device.
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path("live", "file")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    writer.stdout.readline()

    def is_good(copy):
        replayed = subprocess.run(["e2fsck", "-p", f"{copy}/disk.img"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        clean = subprocess.run(["e2fsck", "-fn", f"{copy}/disk.img"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        dump = ["debugfs", "-R", f"dump /file {copy}/file", f"{copy}/disk.img"]
        subprocess.run(dump, check=True, stderr=subprocess.DEVNULL)
        with open(f"{copy}/file", "rb") as file:
            data = file.read()
        numbers = [data[at] for at in range(0, len(data), 4096)]
        # In the order of writing the number falls once, by one.
        newest = numbers[0]
        count = next((at for at, number in enumerate(numbers) if number != newest), len(numbers))
        older = newest - 1 if newest > 1 else 254
        in_order = all(number == older for number in numbers[count:])
        return replayed.returncode <= 1 and clean.returncode == 0 and len(data) == 2 * HALF and in_order

    status = compare(
        int(sys.argv[1]) if len(sys.argv) > 1 else 5,
        [
            ("snapshim cp", lambda copy: subprocess.run(["snapshim", "cp", device, f"{copy}/disk.img"], check=True)),
            ("dd", lambda copy: subprocess.run(["dd", f"if={device}", f"of={copy}/disk.img", "bs=64k", "status=none"], check=True)),
        ],
        is_good,
    )
finally:
    for program in {writer, server}:
        stop(program)
    subprocess.run(["umount", "-l", path("live")], stderr=subprocess.DEVNULL)
    subprocess.run(["losetup", "-d", device])
sys.exit(status)
