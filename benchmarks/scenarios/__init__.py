"""What is measured. Each scenario is `run(contender, endpoint, setting)`, in a process of its own.

It returns measures by cell: `{"10 waiters": {"hand-overs/s": 812.0, "fairness": 1.0}}`.
"""

from __future__ import annotations

from typing import Any

Measures = dict[str, float | None]
Cells = dict[str, Measures]
Setting = dict[str, Any]
