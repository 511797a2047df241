"""The gateway as a process: log, signals, service manager.

* `logs`             the format of the log
* `log_writer`       the thread that writes the log
* `signals`          the effects of TERM, INT, QUIT, HUP, USR1 and USR2
* `service_manager`  notifications to systemd
* `preload`          loads models after the start
"""
