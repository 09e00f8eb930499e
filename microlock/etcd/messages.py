"""Encodes requests as etcd's messages, and decodes etcd's replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from google.protobuf.message import Message

from microlock.core.keys import range_end, range_of, range_start
from microlock.core.port import (
    Enter,
    Entered,
    Found,
    Get,
    Grant,
    Join,
    Joined,
    KeepAlive,
    KeepAlives,
    KeyValue,
    Leave,
    Left,
    Lifetime,
    Move,
    Moved,
    Read,
    ReadAll,
    Request,
    Revoke,
    TimeToLive,
    Transaction,
)
from microlock.core.queue import entries
from microlock.etcd import rpc_pb2 as pb

RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
GRANT = "/etcdserverpb.Lease/LeaseGrant"
REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
TIME_TO_LIVE = "/etcdserverpb.Lease/LeaseTimeToLive"
AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"


# So many keys of a lock's range are read to find its oldest entry. That is enough unless this many
# nested names are older.
OLDEST = 16
# An int64: a semaphore may be of any limit.
_MOST = 2**63 - 1

Others = tuple[tuple[bytes, bytes], ...]
# The method, the message, and the class of the reply.
Asked = tuple[str, Message, type[Any]]


def encode(request: Request | Transaction) -> Asked | None:
    """The call for a request. None: it needs several reads instead (`several_reads`)."""
    match request:
        # The two requests of a cycle come first, because cases are checked one by one.
        case Enter():
            return _enter(request)
        case Leave(entry, token, others):
            entries = entry, *others
            gone = [_delete(each) for each in entries]
            return txn([_created(each, token) for each in entries], gone)
        case Grant(lease_id, ttl):
            return GRANT, pb.LeaseGrantRequest(ID=lease_id, TTL=ttl), pb.LeaseGrantResponse
        case KeepAlive(lease_id) | KeepAlives((lease_id,)):
            # In etcd's API this is a stream. On the wire, one request and one reply look like a
            # call whose request ends late, and a call can be interrupted safely.
            return KEEP_ALIVE, keep_alive(lease_id), pb.LeaseKeepAliveResponse
        case Revoke(lease_id):
            return REVOKE, pb.LeaseRevokeRequest(ID=lease_id), pb.LeaseRevokeResponse
        case TimeToLive(lease_id, names):
            left = pb.LeaseTimeToLiveRequest(ID=lease_id, keys=names)
            return TIME_TO_LIVE, left, pb.LeaseTimeToLiveResponse
        case Read(lock, limit):
            read = _oldest(lock, max(limit, OLDEST) if limit else 0)
            return RANGE, pb.RangeRequest(**read), pb.RangeResponse
        case Get(entry, ()):
            return RANGE, pb.RangeRequest(key=entry), pb.RangeResponse
        case Join(_, _, value, lease_id, near):
            join, otherwise, guards = [], [], []
            for lock, entry in _all(request):
                join += [
                    _put(entry, value, lease_id),
                    {"request_range": _oldest(lock, 1)},
                    {"request_range": _newest(lock, near + 1)},  # ours, and those next before it
                ]
                # A copy that arrives after a move must not put the entry back under this lease.
                guards.append(_created(entry, 0))
                otherwise += _reads(lock, entry, 0)
            return txn(guards, join, otherwise)
        case Move(entry, value, token, lease_id, next_lease_id, others):
            entries = entry, *others
            guards = [_created(each, token) for each in entries]
            guards += [_under(each, lease_id) for each in entries]
            puts = [_put(each, value, next_lease_id) for each in entries]
            return txn(guards, puts, map(get, entries))
        case Transaction(entry, revision, puts, deletes, others) if puts or deletes:
            changes = [*(_put(*put, 0) for put in puts), *map(_delete, deletes)]
            return txn([_created(each, revision) for each in (entry, *others)], changes)
        case Get() | ReadAll() | Transaction():
            return None
    raise AssertionError(f"{request!r} is more than one call")


@lru_cache(maxsize=1024)  # an object sends the same request as long as it has its lease
def _enter(request: Enter) -> tuple[str, Message, type[Any]]:
    puts, guards, otherwise = [], [], []
    for lock, entry in _all(request):
        puts.append(_put(entry, request.value, request.lease_id))
        guards.append(_none_since(lock, request.since))
        if request.since or _beside(lock, entry):
            guards.append(_created(entry, 0))
        otherwise += _reads(lock, entry, _seen(request))
    return txn(guards, puts, otherwise)


def _all(request: Enter | Join) -> Others:
    """The locks of a request, and my entries there."""
    return (request.lock, request.entry), *request.others


def _seen(request: Enter) -> int:
    return max(request.limit, OLDEST)


def _reads(lock: bytes, entry: bytes, limit: int) -> list[Part]:
    """Reads the lock, oldest first, and the entry if it is outside of the lock's range."""
    read: list[Part] = [{"request_range": _oldest(lock, limit)}]
    return [*read, get(entry)] if _beside(lock, entry) else read


def _beside(lock: bytes, entry: bytes) -> bool:
    """Whether the entry is outside of the lock's range."""
    return not entry.startswith(range_of(lock))


def decode(
    request: Request | Transaction, reply: Any, sent: float, at: float, *, repeated: bool
) -> Any:
    """The reply to a request that was sent at `sent`; etcd's reply came at `at`.

    Raises IndexError if the reply has fewer parts than the request.
    """
    match request:
        case Enter():
            return _entered(request, reply, at, repeated)
        case Leave():
            return Left(reply.succeeded, at, repeated)
        case Grant() | KeepAlive():
            return Lifetime(reply.TTL, sent, at)
        case TimeToLive():
            return Lifetime(reply.TTL, sent, at, tuple(reply.keys))
        case KeepAlives((lease_id,)):
            return {lease_id: Lifetime(reply.TTL, sent, at)}
        case Read(lock, limit):
            return Found(reply.header.revision, entries(lock, keys(reply))[: limit or None])
        case Get(_, ()):
            return Found(reply.header.revision, keys(reply))
        case Join():
            return _joined(request, reply, at, repeated)
        case Move():
            named = () if reply.succeeded else _ranges(reply)
            there = named[0][0] if named and all(named) else None
            return Moved(reply.succeeded, there, at, repeated)
        case Transaction():
            return reply.header.revision if reply.succeeded else None
    return True  # a lease is revoked


def _entered(request: Enter, reply: pb.TxnResponse, at: float, repeated: bool) -> Entered:
    revision = reply.header.revision
    if reply.succeeded:
        return Entered(revision, (), at, repeated)
    before: list[KeyValue] = []
    all_seen = True
    for lock, entry, there, beside in _read_of(request, reply):
        mine = _named(entry, there, beside)
        if mine and mine.lease_id:
            return Entered(mine.create_revision, (), at, repeated)
        all_seen &= len(there) < _seen(request)
        before += entries(lock, there)
    since = revision if all_seen else None
    return Entered(None, _by_age(before), at, repeated, since)


def _joined(request: Join, reply: pb.TxnResponse, at: float, repeated: bool) -> Joined:
    before: list[KeyValue] = []
    token = reply.header.revision
    if reply.succeeded:
        found = _ranges(reply)
        for lock, _ in _all(request):
            oldest, newest = found.pop(0), found.pop(0)
            there = newest if oldest[-1:] in ((), newest[-1:]) else (*oldest, *newest)
            if there is not newest and not entries(lock, oldest):
                # A nested name is the oldest, and there may be older entries that were not read.
                return Joined(token, None, at, repeated)
            before += entries(lock, there)
    else:
        for lock, entry, there, beside in _read_of(request, reply):
            mine = _named(entry, there, beside)
            if mine is None or not mine.lease_id:  # a user's own key has that name
                return Joined(None, (), at, repeated)
            token = mine.create_revision
            before += entries(lock, there)
    older = [kv for kv in before if kv.create_revision < token]
    return Joined(token, _by_age(older), at, repeated)


def _read_of(
    request: Enter | Join, reply: pb.TxnResponse
) -> Iterator[tuple[bytes, bytes, tuple[KeyValue, ...], tuple[KeyValue, ...]]]:
    """The results of `_reads`: for each lock, and for my entry if it is outside of the range."""
    found = _ranges(reply)
    for lock, entry in _all(request):
        yield lock, entry, found.pop(0), found.pop(0) if _beside(lock, entry) else ()


def _by_age(found: list[KeyValue]) -> tuple[KeyValue, ...]:
    return tuple(sorted(found, key=lambda kv: kv.create_revision))


def _named(name: bytes, *found: tuple[KeyValue, ...]) -> KeyValue | None:
    return next((kv for each in found for kv in each if kv.name == name), None)


def _ranges(reply: pb.TxnResponse) -> list[tuple[KeyValue, ...]]:
    """The result of each read in the transaction."""
    return [
        keys(each.response_range) for each in reply.responses if each.HasField("response_range")
    ]


def keys(reply: pb.RangeResponse) -> tuple[KeyValue, ...]:
    return tuple([key_value(kv) for kv in reply.kvs])


def keep_alive(lease_id: int) -> pb.LeaseKeepAliveRequest:
    return pb.LeaseKeepAliveRequest(ID=lease_id)


def key_value(kv: pb.KeyValue) -> KeyValue:
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.lease)


# Parts of a transaction are dicts: protobuf makes messages of them faster than Python code.
Part = dict[str, Any]


def txn(guards: Iterable[Part], then: Iterable[Part], otherwise: Iterable[Part] = ()) -> Asked:
    """If all of `guards` hold then `then`, else `otherwise`."""
    return TXN, pb.TxnRequest(compare=guards, success=then, failure=otherwise), pb.TxnResponse


def get(name: bytes) -> Part:
    return {"request_range": {"key": name}}


def all_of(prefix: bytes) -> Part:
    """The range of all keys with this prefix."""
    return {"key": range_start(prefix), "range_end": range_end(prefix)}


def _oldest(lock: bytes, limit: int) -> Part:
    return all_of(range_of(lock)) | {
        "limit": min(limit, _MOST),
        "sort_order": pb.RangeRequest.ASCEND,
        "sort_target": pb.RangeRequest.CREATE,
    }


def _newest(lock: bytes, limit: int) -> Part:
    return _oldest(lock, limit) | {"sort_order": pb.RangeRequest.DESCEND}


def _put(name: bytes, value: bytes, lease_id: int) -> Part:
    return {"request_put": {"key": name, "value": value, "lease": lease_id}}


def _delete(name: bytes) -> Part:
    return {"request_delete_range": {"key": name}}


def _none_since(lock: bytes, revision: int) -> Part:
    """True if no key in the lock's range was created after this revision."""
    # A range is compared key by key; an empty one counts as created at revision 0.
    return all_of(range_of(lock)) | {
        "target": pb.Compare.CREATE,
        "result": pb.Compare.LESS,
        "create_revision": revision + 1,
    }


def _created(name: bytes, revision: int) -> Part:
    """True if the key was created at this revision; 0: if it does not exist."""
    return {"target": pb.Compare.CREATE, "key": name, "create_revision": revision}


def _under(name: bytes, lease_id: int) -> Part:
    return {"target": pb.Compare.LEASE, "key": name, "lease": lease_id}
