"""The planner beside other schedulers on one simulated machine: `make bench-scheduler`."""
