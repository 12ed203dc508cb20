"""pyarrow: IPC file over memory_map, and feather; see saving_common."""

import pyarrow
from pyarrow import feather, ipc

from saving_common import main


def of_table(table):
    return table["numbers"].chunk(0).to_numpy(zero_copy_only=True)


def memory_map(path):
    return of_table(ipc.open_file(pyarrow.memory_map(path)).read_all())


def of_feather(path):
    return of_table(feather.read_table(path, memory_map=True))


def save(path, numbers):
    table = pyarrow.table({"numbers": pyarrow.array(numbers)})
    with pyarrow.OSFile(path, "wb") as file, ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read(path):
    with open(path, "rb") as file:
        return of_table(ipc.open_file(file.read()).read_all())


main({"private": memory_map, "feather": of_feather}, save, read)
