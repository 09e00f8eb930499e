"""The command line. It needs click, which is in the extra `cli`.

Each command is thin: it turns options into a lock of the blocking face, and the outcome into lines
and an exit status.
"""
