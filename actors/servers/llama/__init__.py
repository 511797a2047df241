"""llama.cpp's servers: as child processes, and the parts shared with containers.

* `backend`     files, memory, flags, log and health of every llama.cpp server
* `process`     a server as a child process: a `llama-server` binary, or
* `embedded`    the server in the `xllamacpp` package, with llama-server's flags
* `command`     the server's program, flags and version
* `appraisal`   predicts a model's memory from its headers, its settings, and earlier loads
* `companions`  the files that a model's arguments name: draft models, adapters, a projector
* `dry_run`     the memory that the server itself predicts
* `devices`     the GPUs that a server can use, by its device list and its log
* `log`         parses memory figures in the server's log
* `server_log`  passes a server's lines to the gateway's log, and explains its end to clients
"""
