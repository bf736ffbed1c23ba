#!/usr/bin/env python3
"""An HTTP server that only the tunnel reaches, without root: rootless_server.py wg0.conf PORT.

Needs aiohttp. Ctrl-C ends it.
"""

import argparse
import asyncio
import sys

try:
    from aiohttp import web
except ImportError:
    raise SystemExit("this example is a server of the package aiohttp: pip install aiohttp") from None

import udpring


async def hello(request: web.Request) -> web.Response:
    """Greets whoever asks."""
    return web.Response(text=f"hello, {request.remote}\n")


async def main(path: str, port: int) -> None:
    """Serves until the node ends, or Ctrl-C."""
    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    config = udpring.Config.load(path)
    async with udpring.Node(config, attachment=udpring.Rootless()) as node:
        listening = await node.listen(port=port)
        await web.SockSite(runner, listening).start()
        print(f"{node.name}: port {listening.getsockname()[1]}, in the tunnel alone", flush=True)
        try:
            print((await node.wait()).reason)
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a configuration as for wg-quick")
    parser.add_argument("port", type=int)
    chosen = parser.parse_args()
    try:
        asyncio.run(main(chosen.file, chosen.port))
    except KeyboardInterrupt:
        pass
    except (udpring.UdpringError, OSError, OverflowError) as error:
        sys.exit(str(error))
