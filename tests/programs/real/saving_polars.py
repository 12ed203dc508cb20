"""polars.read_ipc with memory_map, write_ipc; see saving_common."""

import io

import polars

from saving_common import main


def mapped(path):
    return polars.read_ipc(path, memory_map=True)["numbers"].to_numpy()


def save(path, numbers):
    polars.DataFrame({"numbers": numbers}).write_ipc(path, compression="uncompressed")


def read(path):
    with open(path, "rb") as file:
        return polars.read_ipc(io.BytesIO(file.read()))["numbers"].to_numpy()


main({"shared": mapped}, save, read)
