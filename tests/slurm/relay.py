"""Carries bytes between two UNIX sockets; runs inside the testbed instance: `python3 relay.py LISTEN TARGET`.

slurmrestd's local authentication asks the kernel for its peer's pid, which is 0 for a process outside its pid
namespace: it turns the host's tests away. Standard library only, since it runs on the root folder's own Python.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 20):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass  # either side may hang up; the other then sees the end too
    finally:
        writer.close()


async def relay(listen: Path, target: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream_writer = await asyncio.open_unix_connection(target, limit=1 << 20)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pump(reader, upstream_writer), _pump(upstream_reader, writer))

    listen.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(serve, listen, limit=1 << 20)
    async with server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(relay(Path(sys.argv[1]), Path(sys.argv[2])))
