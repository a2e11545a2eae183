"""A worker process: carries one job after the other, models warm. Started by `local.py`, never by hand."""
