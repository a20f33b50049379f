"""A real Chromium and, for OpenID Connect, a real provider. What is missing fails loudly;
`tests/browser/install.sh` brings it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.site import BrowserSite, certificate, running

PROVIDER = Path(__file__).with_name("provider")
CLIENT_SECRET = "a secret that only the tests know"
expect.set_options(timeout=30_000)
"""Milliseconds; the 5 s of the default are short where many share the processors."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


def chromium_program() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "No Chromium on PATH or in CHROMIUM: run tests/browser/install.sh (make test does)."
    return found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Ends with its file: while Playwright runs, no other test of the process can run an event loop of its own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_program(), args=["--no-sandbox"])
        yield browser
        browser.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserSite]:
    folder = tmp_path_factory.mktemp("site")
    with running(folder, free_port(), tls=certificate(folder), limits={"sign_in": 10_000, "address": 100_000}) as site:
        yield site


Accounts = dict[str, dict[str, Any]]


@pytest.fixture
def site_with_provider(tmp_path: Path) -> Callable[..., Any]:
    """A portal that knows an OpenID Provider with the accounts given, both running."""

    @contextmanager
    def start(accounts: Accounts, **oidc: Any) -> Iterator[BrowserSite]:
        port = free_port()
        node = shutil.which("node")
        assert node and (PROVIDER / "node_modules").is_dir(), "Run tests/browser/install.sh (make test does)."
        url = f"https://127.0.0.1:{port}"
        asked = {
            "redirect": f"{url}/sign-in/oidc/back",
            "logout": f"{url}/sign-in/oidc/back-channel-logout",
            "accounts": accounts,
        }
        secret = tmp_path / "client.secret"
        secret.write_text(CLIENT_SECRET + "\n")
        tls = certificate(tmp_path)
        process = subprocess.Popen(
            [node, "provider.mjs", json.dumps(asked)],
            cwd=PROVIDER,
            stdout=subprocess.PIPE,
            stderr=(tmp_path / "provider.log").open("w"),
            text=True,
            env={**os.environ, "NODE_EXTRA_CA_CERTS": tls["certificate"]},  # it calls the portal
        )
        try:
            assert process.stdout is not None
            told = process.stdout.readline().strip()
            assert told, (tmp_path / "provider.log").read_text()
            config = {
                "name": "SSO",
                "issuer": f"http://127.0.0.1:{told}",
                "client_id": "gpuaas",
                "client_secret_file": str(secret),
            }
            with running(tmp_path, port, tls=tls, oidc=config | oidc) as site:
                yield site
        finally:
            process.terminate()
            process.wait(20)

    return start
