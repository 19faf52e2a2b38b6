"""The machine and the process: devices, precision, cores, the process pool, signals, progress."""
