"""llama.cpp's servers, and what is the same of them wherever they run.

* `backend`     files, memory, flags, log and health of every llama.cpp server
* `process`     one as a child process: a `llama-server` binary, or
* `embedded`    the one from the `xllamacpp` package, with llama-server's flags
* `command`     which program, with which flags, and its version
* `appraisal`   what a model will take, by its headers, its settings, and earlier loads
* `dry_run`     what the server itself says that it will take
* `devices`     which GPUs it can use, by its own word and its log
* `log`         what its log tells of memory
* `server_log`  its lines in the gateway's log, and in words for clients
"""
