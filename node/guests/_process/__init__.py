"""The process in which one bundle runs. Started by `node/guests/host.py`, never by hand."""
