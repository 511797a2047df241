"""Measures this machine's memory, and learns from earlier loads.

* `monitor`           the GPUs, as NVML reports them, asked in threads
* `host_memory`       the host's memory, as far as control groups let the gateway use it
* `calibration`       what loads really took, so that the next prediction is better
* `calibration_file`  the SQLite file of `calibration`
* `observer`          between these and the supervisor: measures and learns
"""
