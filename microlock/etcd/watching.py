"""etcd's stream of watches, and what it tells, in our words."""

from __future__ import annotations

from microlock.core.keys import is_prefix, range_end
from microlock.core.port import Event, WatchCancelled, WatchCreated, WatchEvents, WatchReply
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.messages import key_value
from microlock.etcd.translate import refuses
from microlock.etcd.wire import Stream

WATCH = "/etcdserverpb.Watch/Watch"


class EtcdWatching:
    """etcd's stream of watches."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def create(self, watch_id: int, name: bytes, start: int | None) -> None:
        self._stream.send(create_watch(watch_id, name, start))

    def cancel(self, watch_id: int) -> None:
        self._stream.send(cancel_watch(watch_id))

    def close(self) -> None:
        self._stream.close()


def create_watch(watch_id: int, name: bytes, start: int | None) -> pb.WatchRequest:
    """Asks for a watch from the revision `start` on, or from now."""
    create = pb.WatchCreateRequest(
        key=name,
        range_end=range_end(name) if is_prefix(name) else b"",
        start_revision=start or 0,
        watch_id=watch_id,
    )
    return pb.WatchRequest(create_request=create)


def cancel_watch(watch_id: int) -> pb.WatchRequest:
    return pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id))


def watch_reply(reply: pb.WatchResponse) -> WatchReply:
    if reply.canceled:
        return WatchCancelled(
            reply.watch_id,
            created=reply.created,
            compacted=reply.compact_revision != 0,
            refused=refuses(reply.cancel_reason),
            reason=reply.cancel_reason,
        )
    if reply.created:
        return WatchCreated(reply.watch_id, reply.header.revision)
    return WatchEvents(reply.watch_id, tuple([_event(event) for event in reply.events]))


def _event(event: pb.Event) -> Event:
    kv = None if event.type == pb.Event.DELETE else key_value(event.kv)
    return Event(event.kv.mod_revision, event.kv.key, kv)
