"""A live Redis with an append-only file and RDB dumps: its directory is one group. Usage: redis_server.py [COPIES]

You learn that `snapshim cp -r` of the data directory starts as a server of its own, with whole transactions, while the server goes on, be
it while it rewrites its files. Each transaction adds one to two counters."""

import socket
import subprocess
import sys
import threading
import time

from recipe import compare, fresh, live, need, path, snapshim, stop

need("redis-server", "redis-check-aof")


def serve(directory, start):
    options = "--port 0 --unixsocket socket --appendonly yes --appendfsync no --save 1 1 --loglevel warning --logfile log"
    server = start("redis-server", *options.split(), "--dir", directory, cwd=directory)
    for _ in range(500):
        try:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(f"{directory}/socket")
            if ask(connection, "PING") == "+PONG":
                return server, connection
        except OSError:
            pass
        time.sleep(0.02)
    stop(server)
    return None, None


def ask(connection, command):
    connection.sendall(command.encode() + b"\r\n")
    return connection.recv(1 << 16).decode().strip()


def load(connection):
    change = b"MULTI\r\nINCR a\r\nSET filler " + b"x" * 2000 + b"\r\nINCR b\r\nEXEC\r\n"
    try:
        while True:
            connection.sendall(change * 20)
            connection.recv(1 << 20)
    except OSError:
        pass


def is_good(copy):
    subprocess.run(["rm", "-f", f"{copy}/live/socket"], check=True)
    server, connection = serve(f"{copy}/live", lambda *command, **how: subprocess.Popen(command, start_new_session=True, **how))
    if server is None:
        return False
    a, b = (ask(connection, f"GET {name}").split("\r\n")[-1] for name in "ab")
    stop(server)
    return a == b and int(a) > 0


server, connection = serve(fresh("live"), live)
if server is None:
    sys.exit("redis-server did not start")
threading.Thread(target=load, args=(connection,), daemon=True).start()
time.sleep(0.5)


def by_snapshim(copy):
    # The directory has a socket and, for moments, files in the making: exit status 3 says that such a name came or went.
    if subprocess.run(["snapshim", "cp", "-r", path("live"), copy], stderr=subprocess.DEVNULL).returncode not in (0, 3):
        sys.exit("no copy")


status = compare(int(sys.argv[1]) if len(sys.argv) > 1 else 5, [("snapshim cp -r", by_snapshim)], is_good)
stop(server)
sys.exit(status)
