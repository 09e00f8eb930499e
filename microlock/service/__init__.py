"""The lock as an HTTP service: `microlock serve`. It needs `microlock[service]`."""
