"""An etcd in this process: for tests, for trying things, and for a service without one."""
