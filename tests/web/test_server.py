"""Which server: chosen by name, and what is missing is said."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from roles.tally import Tally
from roles.web.listener import listen
from roles.web.server import Certificate, server
from schema.errors import ConfigurationError
from schema.settings import Address
from tests.web.support import Application, ServerName, running_server

pytestmark = pytest.mark.anyio

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def test_granian_without_its_extra_is_an_error_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "granian", None)
    with pytest.raises(ConfigurationError, match=r"\(APP_API__SERVER\).*uv sync --extra granian"):
        server("granian")


def test_who_serves_with_hypercorn_loads_no_granian() -> None:
    program = "import sys, roles.api.role, roles.ops.role, roles.web.server as s; s.server('hypercorn'); "
    program += "sys.exit('granian' in sys.modules)"
    root = Path(__file__).parent.parent.parent
    completed = anyio.run(lambda: anyio.run_process([sys.executable, "-c", program], cwd=root, check=False))
    assert completed.returncode == 0, completed.stderr


def policies() -> dict[str, int]:
    """How each thread of this process is scheduled."""
    found = {}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended
            found[thread.name] = os.sched_getscheduler(int(thread.name))
    return found


async def test_granians_threads_do_not_interrupt_that_of_the_loop() -> None:
    before = policies()
    async with running_server("granian") as served, served.client() as client:
        assert (await client.get())[0] == 200
        since = policies()
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    started = [policy for thread, policy in since.items() if thread not in before]
    assert started.count(os.SCHED_BATCH) >= 2, "one for the sockets, one for the interpreter"
    assert {thread: since.get(thread, policy) for thread, policy in before.items()} == before


async def test_granian_serves_where_no_policy_may_be_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    async with running_server("granian") as served, served.client() as client:
        assert (await client.get())[0] == 200


def certificate(key: Key, path: Path) -> Certificate:
    """One that the key has signed itself, in a file."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return Certificate(str(path), str(path))


async def start(name: ServerName, tls: Certificate) -> None:
    """Starts a server, and stops it."""
    stop = anyio.Event()
    with anyio.fail_after(60), listen(Address("127.0.0.1:0"), setting="api.bind") as listener:
        await server(name).serve(Application(), listener, stop=stop, tally=Tally(), started=stop.set, tls=tls)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(rsa.generate_private_key(65537, 2048), id="RSA 2048"),
        pytest.param(ec.generate_private_key(ec.SECP256R1()), id="P-256"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), id="Ed25519"),
    ],
)
async def test_the_usual_keys_serve(key: Key, server_name: ServerName, tmp_path: Path) -> None:
    await start(server_name, certificate(key, tmp_path / "it.pem"))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(rsa.generate_private_key(65537, 1024), id="RSA 1024"),
        pytest.param(ec.generate_private_key(ec.SECP521R1()), id="P-521"),
    ],
)
async def test_a_key_for_which_granian_would_abort_the_process_is_refused(key: Key, tmp_path: Path) -> None:
    path = tmp_path / "it.pem"
    with pytest.raises(ConfigurationError, match=r"api\.tls_key = .*it\.pem.*cannot be used: "):
        await start("granian", certificate(key, path))


@pytest.mark.parametrize("content", ["", "nonsense"])
async def test_files_that_are_no_certificate_are_refused(
    content: str, server_name: ServerName, tmp_path: Path
) -> None:
    path = tmp_path / "it.pem"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"api\.tls_certificate = .*it\.pem.*cannot be used: "):
        await start(server_name, Certificate(str(path), str(path)))
