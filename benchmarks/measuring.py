"""What etcd and the operating system say, and what follows from times."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

PROPOSALS = "etcd_server_proposals_applied_total"


def metrics(endpoint: str, name: str, containing: str = "") -> float:
    """The sum of the samples of one of etcd's metrics."""
    with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    samples = re.findall(rf"^{name}((?:{{.*}})?) (\S+)$", text, re.MULTILINE)
    return sum(float(value) for labels, value in samples if containing in labels)


def watch_streams(endpoint: str) -> int:
    """Streams of watches that are open at this etcd."""
    watch = 'grpc_service="etcdserverpb.Watch"'
    started = metrics(endpoint, "grpc_server_started_total", watch)
    return int(started - metrics(endpoint, "grpc_server_handled_total", watch))


def count_keys(endpoint: str) -> int:
    """How many keys etcd has."""
    query = json.dumps({"key": "AA==", "range_end": "AA==", "count_only": True}).encode()
    with urllib.request.urlopen(f"http://{endpoint}/v3/kv/range", query, timeout=10) as reply:
        return int(json.load(reply).get("count", 0))


def resident_mib() -> float:
    """The memory of this process; outside Linux the most that it ever had."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def threads() -> int:
    """Threads of this process, also those that are not Python's; 0 outside Linux."""
    tasks = Path("/proc/self/task")
    return len(os.listdir(tasks)) if tasks.exists() else 0


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0
