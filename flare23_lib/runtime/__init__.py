"""The machine and the process: devices, precision, cores, signals, progress."""
