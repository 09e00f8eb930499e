"""The bodies of requests and answers, for their checks and for OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from microlock.core.keys import MAX_KEYS, MAX_NAME_BYTES, check_key, check_node_id
from microlock.service.settings import MAX_EXPIRY_MS, MAX_WAIT_MS


def _key(value: str) -> str:
    check_key(value)
    return value


def _uid(value: str) -> str:
    check_node_id(value)
    return value


def _whole(value: object) -> object:
    """Takes 1.0 as 1: JSON does not tell them apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# No NUL: the range of a lock in etcd would end there.
_TEXT = {"min_length": 1, "max_length": MAX_NAME_BYTES}
_PATTERN = {"pattern": r"^[^\u0000]*$"}

Key = Annotated[str, Field(**_TEXT, json_schema_extra=_PATTERN), AfterValidator(_key)]
Uid = Annotated[
    str,
    Field(**_TEXT, json_schema_extra=_PATTERN, description="the client: the node id of its holds"),
    AfterValidator(_uid),
]
Several = Annotated[list[Key], Field(min_length=1, max_length=MAX_KEYS)]
Keys = Annotated[Key | Several, Field(description="one key, or several: all of them or none")]
Version = Annotated[
    int,
    # The largest integer that every reader of JSON has: a million changes a second for 285 years.
    Field(ge=1, le=2**53, description="the fencing token, which rises from each hold to the next"),
    BeforeValidator(_whole),
]
Expiry = Annotated[
    float | None,
    Field(
        gt=0,
        le=MAX_EXPIRY_MS,
        description="milliseconds until the lock expires; default: --default-expiry",
    ),
]


class Body(BaseModel):
    """The body of a request: with these members only, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Token(Body):
    """One key of a hold."""

    key: Key
    version: Version


Tokens = Annotated[
    list[Token], Field(min_length=1, max_length=MAX_KEYS, description="as /lock returned them")
]


class Lock(Body):
    uid: Uid
    keys: Keys
    exp: Expiry = None
    wait: Annotated[
        float,
        Field(ge=0, le=MAX_WAIT_MS, description="milliseconds to wait for the lock; 0: one try"),
    ] = 0


class Unlock(Body):
    uid: Uid
    tokens: Tokens


class Renew(Body):
    uid: Uid
    tokens: Tokens
    exp: Expiry = None


class Check(Body):
    keys: Keys


class Break(Body):
    key: Key
    token: Version


# The bodies of answers. They are for OpenAPI only; answers are not checked.


class Problem(BaseModel):
    error: str = Field(description="what is wrong, with the argument and its value")


class Place(BaseModel):
    node_id: str | None = Field(description="null: the client stores no name")
    role: Literal["reader", "writer"] | None
    token: int
    lease: str = Field(description="hexadecimal")


class Locked(BaseModel):
    tokens: list[dict[str, Any]] = Field(description="each a key and its version")


class Refused(Problem):
    holder: Place | None = Field(description="the holder of the lock")


class Unlocked(BaseModel):
    unlocked: list[str] = Field(description="the keys that this request unlocked")


class Renewed(BaseModel):
    renewed: list[str] = Field(description="the keys that have the new expiry")


class NotRenewed(Problem):
    renewed: list[str] = Field(description="the keys that have the new expiry nevertheless")


class Checked(BaseModel):
    locked: bool = Field(description="whether at least one of the keys is locked")


class Queue(BaseModel):
    key: str
    kind: str
    holders: list[Place]
    waiters: list[Place]


class Locks(BaseModel):
    revision: int
    locks: list[Queue]


class Leases(BaseModel):
    leases: dict[str, int] = Field(
        description="seconds left, by lease id; ended leases are missing"
    )


class Broken(BaseModel):
    broken: Place | None = Field(
        description="the former holder or waiter; null: it had ended already"
    )


class Health(BaseModel):
    status: Literal["ok"]


class Ill(Problem):
    status: Literal["unavailable"]
