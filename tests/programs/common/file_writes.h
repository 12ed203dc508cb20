/* Ways to write bytes to a place in a file that are more than one call. Each returns how many it wrote, or -1. */
#ifndef FILE_WRITES_H
#define FILE_WRITES_H

#include "check.h"

/* A file of its own that holds these bytes, at whose beginning it is. */
int memory_file(const void *data, size_t length);

/* The kernel copies within one file system, from a file without a name beside `path`, which `fd` is. */
ssize_t write_by_copy(int fd, const char *path, const void *data, size_t length, off_t offset);

/* `is_placed`: it is told where in the source to begin. */
ssize_t write_by_sendfile(int fd, const void *data, size_t length, off_t offset, int is_placed);

/* Through a pipe; at most a page. */
ssize_t write_by_splice(int fd, const void *data, size_t length, off_t offset);

/* Of the file's name: by a stream of its own. -1 only if it does not close. */
ssize_t write_by_stdio(const char *path, const void *data, size_t length, off_t offset);

/* By aio_write(3) or lio_listio(3), or by pwrite(2) if no thread is to be had for that. */
ssize_t write_by_aio(int fd, const void *data, size_t length, off_t offset, int is_listed);

/* By io_submit(2), or by pwrite(2) if the machine has no more queues. `meanwhile`, if any, is done while the write is under way. */
ssize_t write_by_queue(int fd, const void *data, size_t length, off_t offset, void (*meanwhile)(size_t file), size_t file);

#endif
