#!/usr/bin/env python3
"""A tunnel node inside a Python program: embed_node.py wg0.conf. Needs root; Ctrl-C ends it."""

import argparse
import asyncio
import sys

import udpring


async def main(path: str) -> None:
    """Runs the node of a wg-quick configuration. Prints the state of its peers every five seconds."""
    config = udpring.Config.load(path)
    async with udpring.Node(config) as node:
        print(f"{node.name}: UDP port {node.listen_port}, tier {node.tier}, AEAD {node.aead}", flush=True)
        ended = asyncio.ensure_future(node.wait())
        while not ended.done():
            for peer in node.peers:
                print(f"{peer.public_key}: {peer.rx_bytes} bytes in, {peer.tx_bytes} bytes out", flush=True)
            await asyncio.wait([ended], timeout=5)
        print(f"{node.config.file}: {ended.result().reason}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a configuration as for wg-quick")
    try:
        asyncio.run(main(parser.parse_args().file))
    except KeyboardInterrupt:
        pass
    except udpring.UdpringError as error:
        sys.exit(str(error))
