"""etcd's watch stream; decodes its replies."""

from __future__ import annotations

from microlock.core.keys import is_prefix, range_end, range_of, range_start
from microlock.core.port import Event, WatchCancelled, WatchCreated, WatchEvents, WatchReply
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.messages import key_value
from microlock.etcd.translate import refuses
from microlock.etcd.wire import Stream

WATCH = "/etcdserverpb.Watch/Watch"


class EtcdWatching:
    """The `microlock.engine.client.Watching` for etcd."""

    def __init__(self, stream: Stream, member: str) -> None:
        self.member = member
        self._stream = stream

    def create(self, watch_id: int, name: bytes, start: int | None) -> None:
        key = range_of(name)
        create = pb.WatchCreateRequest(
            key=range_start(key),
            range_end=range_end(key) if is_prefix(name) else b"",
            start_revision=start or 0,
            watch_id=watch_id,
        )
        self._stream.send(pb.WatchRequest(create_request=create))

    def cancel(self, watch_id: int) -> None:
        cancel = pb.WatchCancelRequest(watch_id=watch_id)
        self._stream.send(pb.WatchRequest(cancel_request=cancel))

    def close(self) -> None:
        self._stream.close()


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
