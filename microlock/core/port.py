"""The port to a store: what the lock asks, and what a store must guarantee.

A **lock** is named by the prefix of its entries' names, and by who is admitted (`core.admission`);
`core.keys.is_entry` says which names are its entries. An **entry** is a place in the queue of a
lock: a name, a value, the lease it lives by, and the revision it was created at. The oldest entries
hold the lock, one or as many as are admitted, the others wait in order. A store knows nothing of
that: it is asked for older entries, and what follows is decided above it. etcd is the first store;
the following is what any other store must keep, one on PostgreSQL for example.

**Atomicity.** Each request is one step: no other change falls between what it checks, what it
writes and what it returns. A reply reflects every change that was answered before the request was
sent (linearizability): a lagging replica or an old snapshot must not answer.

**Revisions and tokens.** Each change has a revision, an integer that only rises; the changes of
one transaction share one. The create revision of an entry is its **fencing token**: `Move` keeps
it, and a name that is deleted and put again gets a higher one. Revisions follow the order in which
changes become visible. A sequence alone does not give that: a transaction may take a number and
commit after one with a higher number. No revision is used twice, not even after a crash. A restore
to an older state should go on from a higher revision; if it cannot, old tokens are worth nothing
afterwards.

**Several at once.** Most requests take `others`, entries of other locks: what is asked is asked of
all of them in the same step, and done to all or to none.

**Leases.** The caller chooses the id of a lease, and never the same twice. A lease ends its ttl (in
seconds) after its grant or its last keep-alive, by the clock of the store alone, which must not run
faster than real time. It may end later (after an election etcd starts the whole ttl again), never
earlier. When a lease ends or is revoked, its entries are deleted at once with it, and nothing can
be put under it: `Enter`, `Join` and `Move` raise LeaseNotFoundError. A store that deletes expired
leases in the background must treat them as ended before that, in every request. An entry that has
lost its lease (somebody put it again without one) is not an entry: replies about the lock leave it
out, and it keeps nobody out.

**Doubt.** Any request may raise a StoreError. Transient faults have been retried by then, so an
error means that the caller's time is over or that another try is useless. `may_have_happened` is
False only if the change was not made and never will be. A request without an answer may be sent
again while the caller has time; the reply is then `repeated`. `Grant` is never sent again. So a
copy of a request may arrive at any later time, after its error or its reply, and after newer
requests. `Revoke` settles this: once a lease has ended, a late copy can put nothing under it, and
a late `Grant` only makes a lease that nobody uses. The other requests are safe to apply twice:

* `Enter` and `Join` put nothing if the entry is there, and return its token.
* `Leave` deletes only the entry with this token.
* `Move` checks the old lease: after a newer move it changes nothing.

**Watch.** A watch of a lock, or of one entry, starts at a revision and delivers every later change
once (`Event`), ordered by revision, all changes of one revision together. It has no gaps: a read
at revision 7 and a watch from 8 are the whole story. If the store has forgotten some of the
changes (compaction), the watch fails rather than skip them; the client then starts one from now,
and reads. A watch also ends when the **epoch** changes: a store that was restored to an older
state, from a backup or because it lost its last writes, has to say so. The client then trusts
nothing that the store said before, and reads everything again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class KeyValue:
    """An entry as it was read. With the `lease_id` 0 it has lost its lease, and is no entry."""

    name: bytes
    value: bytes
    create_revision: int
    lease_id: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Make a lease with an id of our choosing, so that it can be revoked if the reply is lost.

    Never sent again after that: a late copy would bring a revoked lease back. Reply: `Lifetime`,
    of a ttl that may be longer than asked for.
    """

    lease_id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Put the whole ttl of a lease back. Reply: `Lifetime`."""

    lease_id: int


@dataclass(frozen=True, slots=True)
class KeepAlives:
    """As `KeepAlive`, for any number of leases. Reply: the `Lifetime` of each, by its id; those
    without an answer are missing."""

    lease_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Revoke:
    """End a lease and delete its entries: nothing can be put under it any more.

    Reply: whether it was there, and no earlier copy has ended it.

    A lease that is not there is revoked. What undoes a doubt gets the last of the caller's time.
    """

    lease_id: int


@dataclass(frozen=True, slots=True)
class TimeToLive:
    """How long a lease lives yet, in whole seconds; if asked, what lives by it, too. Reply:
    `Lifetime`."""

    lease_id: int
    names: bool = False


@dataclass(frozen=True, slots=True)
class Enter:
    """Put my entry if the lock has none that was created after the revision `since`; one try.

    The entry may be that of another lock; it is not put if it is there. Reply: `Entered`, with the
    `limit` oldest entries of the lock at least, if mine is not put.
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
    """Put my entry at the end of the queue, unless it is there already, under whichever lease.

    The lock is that of its rivals, as for `Enter`. Reply: `Joined`, with the oldest entry and the
    last `near` before mine, at least.
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
    """Put the entry under the next lease, if it has this token and is under this lease.

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

    `limit`: how many are enough; 0 is no limit. With a limit the reply may be empty though the lock
    has entries: on etcd many nested names may be older.
    """

    lock: bytes
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Get:
    """One entry, as it is. Reply: `Found`."""

    entry: bytes
    others: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadAll:
    """The entries of all locks whose key begins with this, and goes on. Reply: `Found`, in any
    order."""

    prefix: bytes


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a user changes while an entry stands that was created at this revision: keys beside the
    locks, for a store that has such.

    Never sent again without a reply, as a copy would do it twice. Reply: the store's revision after
    it; None if the entry does not stand.
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
    """How long a lease lives: `ttl` seconds (0 or less: it is gone) from no earlier than `sent`,
    when the request left; the reply came at `at`. Both by the monotonic clock. `names` live by it:
    entries, and whatever else has been put under it."""

    ttl: int
    sent: float
    at: float
    names: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """Entries as of a revision."""

    revision: int
    keys: tuple[KeyValue, ...]


# Of the replies that follow, `at` is the moment by the monotonic clock, and `repeated` says that
# an earlier copy of the request got no answer, and may be applied at any later time.


@dataclass(frozen=True, slots=True)
class Entered:
    """Whether my entry is there.

    Attributes:
        token: of my entry, whether this copy of the request has put it or an earlier one;
            None <=> it is not there.
        before: if mine is not there, the entries of the locks, oldest first: all, or `limit` of
            each at least. Empty without a token: the store has put nothing and found no entry of
            these locks (on etcd nested names are in the way); `Join` decides.
        since: the revision as of which `before` is all; None: there may be more.
    """

    token: int | None
    before: tuple[KeyValue, ...]
    at: float
    repeated: bool = False
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """Where my entry stands.

    Attributes:
        token: of my entry; None <=> it is not there: something without a lease has its name.
        before: older entries, oldest first: all, or of each lock the oldest and the last ones
            before mine.
            None: the store did not see the oldest (on etcd behind a nested name); `Read` does.
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
    """Whether this copy of the request has moved the entry; if not, `there` is what has its name,
    if anything has, and something has the names of all others."""

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


# What a stream of watches tells. A watch has an id on its stream, from its creation on.


@dataclass(frozen=True, slots=True)
class WatchCreated:
    """A watch runs; etcd, or the member that tells it, has come to `revision`."""

    watch_id: int
    revision: int


@dataclass(frozen=True, slots=True)
class WatchEvents:
    """Changes of what is watched, in their order."""

    watch_id: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class WatchCancelled:
    """A watch has ended, or was never made.

    Attributes:
        created: this is the reply to its creation.
        compacted: the revisions that it was to tell of are not kept any more.
        refused: the login, or what this user may read, is the reason.
        reason: in the store's words.
    """

    watch_id: int
    created: bool = False
    compacted: bool = False
    refused: bool = False
    reason: str = ""


WatchReply = WatchCreated | WatchEvents | WatchCancelled
