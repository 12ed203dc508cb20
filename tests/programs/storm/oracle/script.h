/* Reads a history: one thing a line, as tests/oracle/history.rs writes it. */
#ifndef ORACLE_SCRIPT_H
#define ORACLE_SCRIPT_H

#include "shared.h"

void read_script(const char *path, char **directories);

#endif
