"""The embedded server as if it ran on the GPUs that it is given: `python -m tests.gpu_server <flags>`.

It is a real one, on the CPU. It says that it can use one of NVIDIA's, and what its log would tell of its real
place is left out.
"""

import os
import subprocess
import sys

COMMAND = [sys.executable, "-m", "tests.gpu_server"]


def main() -> None:
    """Become the embedded server."""
    flags = sys.argv[1:]
    if "--version" in flags:
        print("version: 11549 (pretended)")
        return
    if "--list-devices" in flags:
        print("Available devices:\n  CUDA0: Pretended (780 MiB, 780 MiB free)")
        return
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        silence = "/buffer size =/d; /offloaded 0/d; /no usable GPU/d"
        own_log = subprocess.Popen(["sed", "-u", silence], stdin=subprocess.PIPE).stdin
        assert own_log is not None
        os.dup2(own_log.fileno(), 1)
        os.dup2(own_log.fileno(), 2)
    os.execv(sys.executable, [sys.executable, "-m", "actors.servers.llama.embedded", *flags])


if __name__ == "__main__":
    main()
