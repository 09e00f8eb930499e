"""The port to a store: the requests of a lock, and what a store must guarantee.

The name of a **lock** is the prefix of its entries' names, with the rule of its admission
(`core.admission`); `core.keys.is_entry` decides which names are its entries. An **entry** is a
place in the queue of a lock: a name, a value, a lease, and the revision at which it was created.
The oldest entries hold the lock, as many as are admitted; the others wait in order. A store knows
nothing of that: it returns older entries, and the decisions are made above it. etcd is the first
store. Any other store, such as one on PostgreSQL, must guarantee the following.

**Atomicity.** Each request is one step: no other change comes between its checks, its writes and
its reply. A reply reflects every change that was answered before the request was sent
(linearizability): a lagging replica or an old snapshot must not answer.

**Revisions and tokens.** Each change has a revision, an integer that only rises; the changes of
one transaction share one. The create revision of an entry is its **fencing token**: `Move` keeps
it, and a name that is deleted and put again gets a higher one. Revisions follow the order in which
changes become visible. A sequence alone does not give that: a transaction may take a number and
commit after one with a higher number. No revision is used twice, not even after a crash. A restore
to an older state should go on from a higher revision; if it cannot, old tokens are worth nothing
afterwards.

**Several locks.** Most requests take `others`, entries of other locks. The request applies to all
of them in the same step: to all or to none.

**Leases.** The caller chooses the id of a lease, and never uses it twice. A lease ends its ttl (in
seconds) after its grant or its last keep-alive, by the clock of the store alone, which must not run
faster than real time. It may end later (etcd starts the whole ttl again after an election), never
earlier. When a lease ends or is revoked, its entries are deleted with it, and nothing can be put
under it: `Enter`, `Join` and `Move` raise LeaseNotFoundError. A store that deletes expired leases
in the background must treat them as ended before that, in every request. An entry without a lease
(a client put it again without one) does not count: replies about the lock leave it out, and it
blocks nobody.

**Doubt.** Any request may raise a StoreError. Temporary faults were retried before that, so an
error means that the caller's time is over, or that another try is useless. `may_have_happened` is
False only if the change was not made and never will be. A request without an answer may be sent
again while the caller has time; the reply is then `repeated`. `Grant` is never sent again. So a
copy of a request may arrive at any later time, after its error or its reply, and after newer
requests. `Revoke` settles this: once a lease has ended, a late copy can put nothing under it, and a
late `Grant` only makes a lease that nobody uses. The other requests are safe to apply twice:

* `Enter` and `Join` put nothing if the entry is there, and return its token.
* `Leave` deletes only the entry with this token.
* `Move` checks the old lease: after a newer move it changes nothing.

**Watch.** A watch of a lock, or of one entry, starts at a revision and delivers every later change
once (`Event`), ordered by revision, all changes of one revision together. It has no gaps: a read
at revision 7 and a watch from 8 are the whole story. If the store has forgotten some of the
changes (compaction), the watch fails and does not skip them; the client then starts a new watch and
reads. A watch also ends when the **epoch** changes: a store that was restored to an older state,
from a backup or because it lost its last writes, has to say so. The client then forgets everything
that it knew, and reads again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class KeyValue:
    """An entry as it was read. With the `lease_id` 0 it has lost its lease, and does not count."""

    name: bytes
    value: bytes
    create_revision: int
    lease_id: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Make a lease with an id that we choose, so that it can be revoked if the reply is lost.

    It is never sent again: a late copy would bring a revoked lease back. Reply: `Lifetime`, with a
    ttl that may be longer than the one asked for.
    """

    lease_id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Renew a lease for its whole ttl. Reply: `Lifetime`."""

    lease_id: int


@dataclass(frozen=True, slots=True)
class KeepAlives:
    """As `KeepAlive`, for any number of leases. Reply: the `Lifetime` of each, by its id; those
    without an answer are missing."""

    lease_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Revoke:
    """End a lease and delete its entries: nothing can be put under it any more.

    Reply: whether the lease existed; False if an earlier copy of the request has ended it.

    A lease that does not exist counts as revoked. This request settles doubts, so it may use the
    time of the caller that is kept back.
    """

    lease_id: int


@dataclass(frozen=True, slots=True)
class TimeToLive:
    """Ask for the time left of a lease, in whole seconds, and with `names` for its keys. Reply:
    `Lifetime`."""

    lease_id: int
    names: bool = False


@dataclass(frozen=True, slots=True)
class Enter:
    """Put my entry if the lock has no entry created after revision `since`; one try.

    `lock` is the lock of the rivals; my entry may belong to another one. An entry that exists is
    not put again. Reply: `Entered`; if mine was not put, with at least the `limit` oldest of the
    lock.
    """

    lock: bytes
    entry: bytes
    value: bytes
    lease_id: int
    limit: int = 1
    since: int = 0
    others: tuple[tuple[bytes, bytes], ...] = ()  # locks, and my entries there


@dataclass(frozen=True, slots=True)
class Join:
    """Put my entry at the end of the queue, unless it exists already, under any lease.

    `lock` is the lock of the rivals, as for `Enter`. Reply: `Joined`, with at least the oldest
    entry and the last `near` before mine.
    """

    lock: bytes
    entry: bytes
    value: bytes
    lease_id: int
    near: int
    others: tuple[tuple[bytes, bytes], ...] = ()  # locks, and my entries there


@dataclass(frozen=True, slots=True)
class Leave:
    """Delete the entry if it has this token. Reply: `Left`."""

    entry: bytes
    token: int
    others: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """Put the entry under the next lease, if it has this token and this lease.

    It keeps its token and its value. Reply: `Moved`.
    """

    entry: bytes
    value: bytes
    token: int
    lease_id: int
    next_lease_id: int
    others: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """The entries of a lock, oldest first. Reply: `Found`.

    `limit`: how many are enough; 0: no limit. With a limit the reply may be empty though the lock
    has entries: on etcd many nested names may be older.
    """

    lock: bytes
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Get:
    """One entry, and `others`. Reply: `Found`."""

    entry: bytes
    others: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadAll:
    """The entries of all locks whose key begins with this prefix. Reply: `Found`, in any order."""

    prefix: bytes


@dataclass(frozen=True, slots=True)
class Transaction:
    """Change a user's own keys, only if the entry with this create_revision exists; for a store
    that has keys beside the locks.

    It is never sent again without a reply: a copy would do it twice. Reply: the store's revision
    after it; None if the entry does not exist.
    """

    once: ClassVar[bool] = True

    entry: bytes
    revision: int
    puts: tuple[tuple[bytes, bytes], ...]
    deletes: tuple[bytes, ...]
    others: tuple[bytes, ...] = ()


Request = (
    Grant
    | KeepAlive
    | KeepAlives
    | Revoke
    | TimeToLive
    | Enter
    | Join
    | Leave
    | Move
    | Read
    | Get
    | ReadAll
)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a lease lives: `ttl` seconds after `sent`, at least; 0 or less: it is gone. The
    request left at `sent` and the reply came at `at`, by the monotonic clock. `names`: the keys
    under it, entries and others."""

    ttl: int
    sent: float
    at: float
    names: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """Entries as of a revision."""

    revision: int
    keys: tuple[KeyValue, ...]


# In the replies that follow, `at` is when the reply came, by the monotonic clock. `repeated`: an
# earlier copy of the request got no answer, and may still be applied at any later time.


@dataclass(frozen=True, slots=True)
class Entered:
    """Whether my entry exists.

    Attributes:
        token: the token of my entry, whichever copy of the request has put it; None <=> there is no
            such entry.
        before: if mine does not exist, the entries of the locks, oldest first: all, or at least
            `limit` of each. If this is empty too, the store has put nothing and found no entry of
            these locks (on etcd because of nested names); `Join` decides.
        since: `before` is complete as of this revision; None: there may be more.
    """

    token: int | None
    before: tuple[KeyValue, ...]
    at: float
    repeated: bool = False
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """The place of my entry.

    Attributes:
        token: the token of my entry; None <=> a key without a lease has its name.
        before: older entries, oldest first: all, or for each lock the oldest and the last ones
            before mine. None: the store did not see the oldest (on etcd because of nested names);
            `Read` does.
    """

    token: int | None
    before: tuple[KeyValue, ...] | None
    at: float
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Left:
    """Whether this copy of the request has deleted the entry."""

    done: bool
    at: float
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """Whether this copy of the request has moved the entry. If not, `there` is the key with its
    name; None: there is none, or one of the others is missing."""

    done: bool
    there: KeyValue | None
    at: float
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One change of an entry. `kv` is None for a deletion."""

    revision: int
    name: bytes
    kv: KeyValue | None


# The replies of a watch stream. Each watch has an id on its stream.


@dataclass(frozen=True, slots=True)
class WatchCreated:
    """A watch runs; the member has reached `revision`."""

    watch_id: int
    revision: int


@dataclass(frozen=True, slots=True)
class WatchEvents:
    """Changes of the watched keys, in order."""

    watch_id: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class WatchCancelled:
    """A watch has ended, or was never created.

    Attributes:
        created: this is the reply to its creation.
        compacted: the store has forgotten the revisions that it needs.
        refused: the login or the user's permissions are the reason.
        reason: the store's text.
    """

    watch_id: int
    created: bool = False
    compacted: bool = False
    refused: bool = False
    reason: str = ""


WatchReply = WatchCreated | WatchEvents | WatchCancelled
