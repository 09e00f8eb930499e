"""The decisions of a lock: no thread, no clock, no I/O."""
