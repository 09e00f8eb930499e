"""The command line. It needs click, which is in the extra `cli`.

Each command is thin: it turns options into a lock of the blocking face, and what becomes of that
into lines and an exit status.
"""
