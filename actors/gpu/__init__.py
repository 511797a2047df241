"""What is measured of this machine's memory, and what earlier loads taught.

* `monitor`           the GPUs, as NVML tells of them, asked in threads
* `host_memory`       the host's memory, as far as control groups let the gateway use it
* `calibration`       what loads really took, so that the next prediction is better
* `calibration_file`  the database of that
* `observer`          between these and the supervisor: measures and learns
"""
