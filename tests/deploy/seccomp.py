"""Runs a command under a unit's SystemCallFilter: `python -m tests.deploy.seccomp CALLS COMMAND...`.

CALLS is a file with the names of the system calls that are allowed; any other fails with EPERM, as under the
unit.
"""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

LIBRARY = "libseccomp.so.2"
_ALLOW = 0x7FFF0000
_FAIL = 0x00050000 | errno.EPERM


def expand(analyze: str, group: str) -> set[str]:
    """The names of a group such as @system-service, as systemd has it, with the groups in it."""
    told = subprocess.run(
        [analyze, "syscall-filter", group], capture_output=True, text=True, check=True
    ).stdout
    names = {word for line in told.splitlines() if (word := line.strip()) and not word.startswith("#")}
    names -= {group}
    return {call for name in names for call in (expand(analyze, name) if name.startswith("@") else {name})}


def main() -> None:
    """Load the filter and become the command."""
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_FAIL)))
    for name in Path(sys.argv[1]).read_text().split():
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # this machine has it
            assert library.seccomp_rule_add(context, ctypes.c_uint32(_ALLOW), number, 0) == 0, name
    assert library.seccomp_load(context) == 0
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
