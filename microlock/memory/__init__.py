"""A simulated etcd in this process: for tests, for trying out, and for a service without etcd."""
