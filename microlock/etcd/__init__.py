"""The etcd side: connection, messages, the transport's errors, other clients."""
