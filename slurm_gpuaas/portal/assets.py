"""Static files: read once, served under a name with their hash, so that browsers keep them for a year and still get
every change at once. Under their plain name they are there too, checked by ETag, for what names itself (modules)."""

import gzip
import hashlib
import mimetypes
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Depends, Request, Response

from slurm_gpuaas.domain.errors import InvalidInput, NotFound
from slurm_gpuaas.domain.told import told
from slurm_gpuaas.portal.visit import Machine

PREFIX: Final = "/static/"
YEAR: Final = "public, max-age=31536000, immutable"
COMPRESSED: Final = frozenset({".css", ".js", ".svg", ".json"})
HASH_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    gzipped: bytes | None
    media_type: str
    etag: str


class Assets:
    """All files of the folders given; a file's name is its path within its folder."""

    def __init__(self, folders: Iterable[Path]) -> None:
        """Raises:
        InvalidInput: two folders have a file of the same name.
        """
        self._by_name: dict[str, Asset] = {}
        self._hashed: dict[str, str] = {}
        for folder in folders:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                name = file.relative_to(folder).as_posix()
                if name in self._by_name:
                    raise InvalidInput(f"Two parts of the portal have a static file {name}.")
                content = file.read_bytes()
                digest = hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
                hashed = file.with_name(f"{file.stem}.{digest}{file.suffix}").relative_to(folder).as_posix()
                asset = Asset(
                    content=content,
                    gzipped=gzip.compress(content, mtime=0) if file.suffix in COMPRESSED else None,
                    media_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
                    etag=f'"{digest}"',
                )
                self._by_name[name] = self._by_name[hashed] = asset
                self._hashed[name] = hashed

    def url(self, name: str) -> str:
        """Raises:
        KeyError: there is no such file.
        """
        return PREFIX + self._hashed[name]

    def answer(self, name: str, request: Request) -> Response:
        """Raises:
        NotFound: there is no such file.
        """
        asset = self._by_name.get(name)
        if asset is None:
            raise NotFound(told("There is no such page."))
        headers = {
            "ETag": asset.etag,
            "Cache-Control": "no-cache" if name in self._hashed else YEAR,
            "Vary": "Accept-Encoding",
        }
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        if asset.gzipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(asset.gzipped, media_type=asset.media_type, headers={**headers, "Content-Encoding": "gzip"})
        return Response(asset.content, media_type=asset.media_type, headers=headers)

    def routes(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)

        @router.get(
            PREFIX + "{name:path}",
            dependencies=[Depends(Machine("files that are the same for everybody", limited=False))],
        )
        def static(name: str, request: Request) -> Response:
            return self.answer(name, request)

        return router
