"""`run.py doctor` and `/admin/doctor`: what works on this machine, what does not, and the cure.

* `checks`         what a check is, and how all of them run: concurrently, each within a time limit
* `gpus`           the NVIDIA driver, NVML, and the model servers' programs with the GPUs that they can use
* `services`       the Docker Engine and the Ollama daemons
* `hub`            the hub, its token, and the clock by the hub's `Date`
* `machine`        folders, ports, the certificate, limits of open files
* `configuration`  the configuration file, as `run.py check` sees it
* `diagnosis`      the list of all checks
* `command_line`   `run.py doctor`
"""
