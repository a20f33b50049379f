"""A portal that listens with TLS on this machine, for real browsers."""

from __future__ import annotations

import datetime as dt
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from slurm_gpuaas.domain.accounts import Person
from slurm_gpuaas.domain.clock import Clock, SystemClock
from slurm_gpuaas.domain.people import PortalRole
from slurm_gpuaas.domain.programmes import Programme
from slurm_gpuaas.portal.accounts import Accounts
from slurm_gpuaas.portal.app import Wiring
from slurm_gpuaas.portal.config import Config
from slurm_gpuaas.portal.feature import Feature
from slurm_gpuaas.portal.main import uvicorn_config
from slurm_gpuaas.portal.pool import PoolServer, PoolTurns
from slurm_gpuaas.portal.routes.of_pool import pool_features
from slurm_gpuaas.portal.routes.sites import sites_feature
from slurm_gpuaas.store.pool import PoolStore
from tests.pools import WEAKEST, fill_pool, people_of_all_roles
from tests.stores import new_pool_store

STARTS_WITHIN_S = 20


@dataclass(frozen=True)
class BrowserSite:
    url: str
    store: PoolStore
    config: Config
    people: dict[PortalRole, Person]
    pool: PoolServer | None = None


def certificate(folder: Path) -> dict[str, str]:
    """A self-signed one for this machine, of one day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "tls.crt", folder / "tls.key"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {"certificate": str(chain), "key": str(private)}


@contextmanager
def running(
    folder: Path,
    port: int,
    *,
    tls: dict[str, str],
    parts: Callable[[PoolStore], Sequence[Feature]] = lambda store: (),
    rules: Programme | None = None,
    clock: Clock | None = None,
    site_keys: bytes | None = None,
    **settings: Any,
) -> Iterator[BrowserSite]:
    """The portal on `port` of 127.0.0.1 until the block ends: with further parts, or with all of the pool's, their
    turns, and this programme in a pool that is filled as `PoolPortal`'s.

    Args:
        site_keys: the master key of sites, which may then call it; only with `rules`.
    """
    config, clock = config_of(port, tls, **settings), clock or SystemClock()
    store = new_pool_store(folder / "pool.db")
    people = people_of_all_roles(store, clock, config)
    if rules is None:
        with serving(Wiring(config=config, store=store, clock=clock, hasher=WEAKEST, features=parts(store))):
            yield BrowserSite(config.public_url, store, config, people)
        return
    pool = PoolServer(store, clock)
    fill_pool(pool.service, Accounts(store, clock, config.sessions, hasher=WEAKEST), rules)
    pool.turn()
    turns = PoolTurns(pool)
    features = (*pool_features(pool), *([] if site_keys is None else [sites_feature(pool, site_keys)]))
    with serving(Wiring(config=config, store=store, clock=clock, hasher=WEAKEST, features=features)):
        turns.start()
        try:
            yield BrowserSite(config.public_url, store, config, people, pool)
        finally:
            turns.stop()


def config_of(port: int, tls: dict[str, str], **settings: Any) -> Config:
    return Config(
        public_url=f"https://127.0.0.1:{port}",
        listen={"port": port, "tls": tls},
        name_ko="국가 GPU 풀",
        name="National GPU Pool",
        **settings,
    )


@contextmanager
def serving(wiring: Wiring) -> Iterator[None]:
    """Answers on the port of its configuration until the block ends; then its store is closed."""
    server = uvicorn.Server(uvicorn_config(wiring.config, wiring))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the portal did not start"
        thread.join(0.01)
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True  # connections that clients of tests keep are not waited for
        thread.join(STARTS_WITHIN_S)
        wiring.store.close()
