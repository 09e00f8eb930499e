"""python-etcd3 as `microlock.etcd.python_etcd3` loads it. Each claim has a process of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def prove(
    program: str, *, path: Path | None = None, implementation: str = "", warnings: str = "error"
) -> None:
    """Run `program` with `load` at hand; `path` comes before every other place to import from."""
    places = [path, REPOSITORY, os.environ.get("PYTHONPATH")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(str(entry) for entry in places if entry)}
    env.pop("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", None)
    if implementation:
        env["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = implementation
    done = subprocess.run(
        [sys.executable, "-W", warnings, "-c", f"{PREAMBLE}\n{program}"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


PREAMBLE = "import sys; from microlock.etcd.python_etcd3 import load"

PLAIN_IMPORT_THAT_MAY_FAIL = """
try:
    import etcd3  # protobuf >= 4 refuses its message modules
except TypeError:
    pass
"""


@pytest.mark.parametrize("implementation", ["", "python"])
def test_messages_enums_and_their_values_are_where_etcd3_looks_for_them(implementation):
    prove(
        """
rpc, kv, auth = (getattr(load().etcdrpc, name) for name in ("rpc_pb2", "kv_pb2", "auth_pb2"))
assert rpc.Compare.EQUAL == 0 and rpc.RangeRequest.SortOrder.Value("DESCEND") == 2
assert kv.Event.EventType.Name(kv.Event.DELETE) == "DELETE" and auth.Permission.READWRITE == 2
assert rpc.NOSPACE == 1 and rpc.AlarmType.Name(rpc.NOSPACE) == "NOSPACE"
assert load().etcdrpc.NOSPACE == 1 and load().etcdrpc.KVStub
""",
        implementation=implementation,
    )


@pytest.mark.parametrize("implementation", ["", "python"])
def test_a_message_of_one_file_is_the_same_class_inside_a_message_of_another(implementation):
    prove(
        """
rpc, kv = load().etcdrpc.rpc_pb2, load().etcdrpc.kv_pb2
answer = rpc.RangeResponse(kvs=[kv.KeyValue(key=b"foo")])
again = rpc.RangeResponse.FromString(answer.SerializeToString())
assert again == answer and type(again.kvs[0]) is kv.KeyValue
""",
        implementation=implementation,
    )


def test_nothing_is_registered_in_the_default_pool():
    prove("""
load()
from google.protobuf import descriptor_pool
for name in ("rpc.proto", "kv.proto", "auth.proto"):
    try:
        descriptor_pool.Default().FindFileByName(name)
    except KeyError:
        continue
    raise AssertionError(name)
""")


@pytest.mark.parametrize("imports", ["load(); import pyetcd", "import pyetcd; load()"])
def test_pyetcd_can_be_imported_before_and_after(imports):
    prove(f"{imports}; import etcd3; assert etcd3.etcdrpc.Compare is not pyetcd.etcdrpc.Compare")


def test_importing_microlock_alone_does_not_import_etcd3():
    prove("import microlock; assert 'etcd3' not in sys.modules")


def test_microlock_etcd3_is_that_module():
    prove("from microlock import etcd3; assert etcd3 is load()")


def test_a_plain_import_afterwards_gives_the_same_module():
    prove("first = load(); import etcd3; assert etcd3 is first is load()")


def test_a_whole_import_is_returned_untouched():
    prove(
        """
import etcd3
before = {name: module for name, module in sys.modules.items() if name.startswith("etcd3")}
assert load() is etcd3
assert before == {name: sys.modules[name] for name in before}
""",
        implementation="python",  # there a plain import works on every protobuf
        warnings="default",
    )


def test_a_plain_import_that_failed_before_spoils_nothing():
    prove(f"{PLAIN_IMPORT_THAT_MAY_FAIL}\nload().client(port=1).close()", warnings="default")


def test_submodules_left_over_by_a_failed_import_are_replaced():
    prove("""
from types import ModuleType
for name in ("etcd3.etcdrpc", "etcd3.etcdrpc.kv_pb2", "etcd3.watch"):
    sys.modules[name] = ModuleType(name)
load().client(port=1).close()
""")


def test_threads_get_one_whole_module():
    prove("""
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
barrier = Barrier(8)
def task(_):
    barrier.wait()
    return load(), load().Etcd3Client
with ThreadPoolExecutor(8) as pool:
    assert len(set(pool.map(task, range(8)))) == 1
""")


def test_the_message_modules_of_etcd3_are_not_executed(tmp_path):
    installed = importlib.util.find_spec("etcd3")
    assert installed is not None
    assert installed.origin is not None
    package = shutil.copytree(Path(installed.origin).parent, tmp_path / "etcd3")
    for module in package.glob("etcdrpc/*_pb2.py"):
        module.write_text(f"raise SystemExit('executed')\n{module.read_text()}")
    prove("assert load().etcdrpc.rpc_pb2.TxnRequest", path=tmp_path)


def test_a_missing_etcd3_is_an_import_error_that_says_what_to_install():
    prove("""
import importlib.util
importlib.util.find_spec = lambda name: None
try:
    load()
except ModuleNotFoundError as error:
    assert error.name == "etcd3" and "pip install" in str(error)
else:
    raise AssertionError
""")


@pytest.mark.parametrize(
    "message_module",
    [
        pytest.param(None, id="missing"),
        pytest.param("def", id="no Python"),
        pytest.param("DESCRIPTOR = None", id="no descriptor"),
        pytest.param(r"FileDescriptor(serialized_pb=_b('\n\xff'))", id="bytes of no descriptor"),
    ],
)
@pytest.mark.parametrize("implementation", ["", "python"])
def test_another_package_of_the_name_is_an_import_error(tmp_path, message_module, implementation):
    package = tmp_path / "etcd3" / "etcdrpc"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    if message_module is not None:
        (package / "kv_pb2.py").write_text(message_module)
    prove(
        """
try:
    load()
except ImportError as error:
    assert "is not python-etcd3 0.12" in str(error) and error.__cause__
else:
    raise AssertionError
assert not [name for name in sys.modules if name.startswith("etcd3")]
""",
        path=tmp_path,
        implementation=implementation,
    )
