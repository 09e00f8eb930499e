"""An etcd in this process: for tests, for trying things, and for a service without one."""

from microlock.memory.connect import connect

__all__ = ["connect"]
