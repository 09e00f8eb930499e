"""A store that writes go to under a lock, which refuses those with an outdated token."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from history import History, Written, now

_TABLES = """
    CREATE TABLE IF NOT EXISTS fences (key TEXT PRIMARY KEY, fence INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS attempts (
        number INTEGER PRIMARY KEY, at REAL, process TEXT, key TEXT, token INTEGER, accepted INTEGER
    );
"""


class Fenced:
    """A file of SQLite, to be written to by any number of processes and threads.

    Args:
        fenced: False accepts whatever comes, as a store that knows nothing of tokens.
    """

    def __init__(self, path: Path, *, fenced: bool = True) -> None:
        self._path = path
        self._fenced = fenced
        with closing(self._connect()) as store:
            store.executescript(_TABLES)

    def write(self, process: str, key: str, token: int) -> bool:
        """A write under the hold with this token. Returns whether it was accepted."""
        with closing(self._connect()) as store:
            # The decision and the note of it in one transaction: the order of the notes is that
            # of the decisions. It has the lock of the file from its beginning.
            store.execute("BEGIN IMMEDIATE")
            store.execute("INSERT OR IGNORE INTO fences VALUES (?, 0)", (key,))
            accepted = store.execute(
                "UPDATE fences SET fence = ? WHERE key = ? AND (fence <= ? OR NOT ?)",
                (token, key, token, self._fenced),
            ).rowcount
            store.execute(
                "INSERT INTO attempts (at, process, key, token, accepted) VALUES (?, ?, ?, ?, ?)",
                (now(), process, key, token, accepted),
            )
            store.execute("COMMIT")
        return bool(accepted)

    def attempts(self) -> list[Written]:
        """All that came, in the order it was decided on."""
        query = "SELECT at, process, key, token, accepted FROM attempts ORDER BY number"
        with closing(self._connect()) as store:
            return [Written(*fields, bool(accepted)) for *fields, accepted in store.execute(query)]

    def dump(self, path: Path) -> None:
        """Writes them down as a history."""
        history = History(path)
        for attempt in self.attempts():
            history.note(attempt)
        history.close()

    def _connect(self) -> sqlite3.Connection:
        # One for each use: threads may not share one, and SQLite waits for the others' locks.
        # Nothing is to survive a crash of the machine.
        store = sqlite3.connect(self._path, timeout=20, isolation_level=None)
        store.execute("PRAGMA synchronous = OFF")
        return store
