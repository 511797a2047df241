"""The process around the gateway.

* `logs`             how the log is written
* `log_writer`       the thread that writes it
* `signals`          what TERM, INT, QUIT, HUP and USR1 do
* `service_manager`  what systemd is told
"""
