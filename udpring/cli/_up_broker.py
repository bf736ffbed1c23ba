"""The broker of ``udpring up``: it keeps root's rights and does for the confined node what its file asks for.

It reads the file, runs its commands, sets addresses, routes, DNS and firewall, saves the file, and keeps the
record for ``udpring down``. It works from the file alone: the node names a step, never a command. If the node
dies, the broker undoes what was set up.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import pickle
import socket
from pathlib import Path
from typing import Any

from udpring.cli._up_request import UpRequest, load
from udpring.errors import HostError, UdpringError
from udpring.tunnel import daemon, process_log, up_record
from udpring.tunnel.broker import Broker, Service, serve
from udpring.tunnel.broker_services import NodeWeight, SocketFiles, services
from udpring.tunnel.config import Config
from udpring.tunnel.first_confinement import protect_memory, restore_dumps
from udpring.tunnel.hooks import HookScope, run_hooks
from udpring.tunnel.interface import Plan, keep_unset, plan
from udpring.tunnel.interface_setup import Setup, gather
from udpring.tunnel.saved_config import save

__all__ = ["start"]

ENDPOINTS_MAX = 65536
"""One for each peer that a node may have."""


def start(request: UpRequest) -> Broker:
    """Forks it. Call it while the process has one thread."""
    return Broker.start(lambda control: _serve(control, request))


def _serve(control: socket.socket, request: UpRequest) -> None:
    protect_memory(children=True)
    files, weight = SocketFiles(), NodeWeight(request.nice)
    steps = _Steps(request, control)
    try:
        serve(control, {**services(files, weight), **steps.services()}, weight.notice)
    finally:
        weight.close()
        steps.close()
        files.close()
        process_log.close_log()


class _Steps:
    def __init__(self, request: UpRequest, control: socket.socket) -> None:
        self._request = request
        self._control = control
        self._config = request.loaded
        self._next: Config | None = None
        self._endpoints: dict[str, None] = {}
        self._planned: Plan | None = None
        self._setup: Setup | None = None
        self._record: up_record.UpRecord | None = None
        self._attached = True

    def services(self) -> dict[str, Service]:
        return {
            "hooks": Service(self.hooks, own_process=True, confine=restore_dumps, cancellable=True),
            "save": Service(self.save, own_process=True),
            "load": Service(self.load),
            "endpoints": Service(self.endpoints),
            "plan": Service(self.plan),
            "apply": Service(self.apply),
            "undo": Service(self.undo),
            "up": Service(self.up),
            "leave": Service(self.leave),
            "forget": Service(self.forget),
        }

    def hooks(self, key: str, patience: int) -> None:
        """Runs the commands of PreUp, PostUp, PreDown or PostDown."""
        settings = self._config.interface
        every = {
            "PreUp": settings.pre_up,
            "PostUp": settings.post_up,
            "PreDown": settings.pre_down,
            "PostDown": settings.post_down,
        }
        scope = HookScope(self._request.name, self._request.path, settings)
        try:
            run_hooks(scope, key, every[key], attached=self._attached, patience=patience)
        finally:
            process_log.close_log()

    def save(self) -> None:
        """Writes the running configuration to the file, if the file says so."""
        if self._config.interface.save_config:
            save(self._request.name, self._request.path, self._config)

    def load(self) -> str:
        """Reads the file again. It counts from the next ``apply`` on."""
        self._next = load(self._request)
        return base64.b64encode(pickle.dumps(self._next)).decode()

    def endpoints(self, addresses: list[str], first: bool) -> None:
        """Addresses of peers for the next ``plan``, in parts. Raises HostError for too many."""
        if first:
            self._endpoints.clear()
        if len(self._endpoints) + len(addresses) > ENDPOINTS_MAX:
            raise HostError(f"more than {ENDPOINTS_MAX} endpoints", cure="remove peers from the file")
        self._endpoints.update(dict.fromkeys(addresses))

    def plan(self) -> dict[str, Any]:
        """The mark that the sockets need, and warnings."""
        config = self._next or self._config
        if self._setup is not None:
            config = keep_unset(config, self._setup.plan)
        name = self._request.name
        facts = gather(config, name, [ipaddress.ip_address(each) for each in self._endpoints])
        self._planned = plan(config, name, facts)
        return {"mark": self._planned.fwmark, "warnings": self._planned.warnings}

    def apply(self) -> None:
        """Carries the plan out."""
        planned, self._planned = self._planned, None
        if planned is None:
            raise HostError("nothing was planned")
        if self._setup is None:
            self._setup = Setup(planned)
            self._setup.apply()
        else:
            self._setup.change(planned)
        self._config, self._next = self._next or self._config, None

    def undo(self) -> None:
        """Takes the set-up back."""
        setup, self._setup = self._setup, None
        if setup is not None:
            setup.undo()

    def up(self) -> None:
        """The interface is up: writes the record for ``udpring down``."""
        if self._record is None:
            request = self._request
            self._record = up_record.write(request.name, request.path, allow_hooks=request.allow_hooks)

    def leave(self) -> None:
        """Leaves the caller's session, directory and standard streams, unless the node is in the
        foreground."""
        if self._request.foreground:
            return
        self._attached = False
        process_log.close_log()
        daemon.leave_the_caller({self._control.fileno()})

    def forget(self) -> None:
        """Removes the record."""
        if self._record is not None:
            self._record.remove()

    def close(self) -> None:
        """The node has ended. It may have done nothing of this itself."""
        with contextlib.suppress(UdpringError, OSError):
            self.undo()
        self.forget()
        metrics = self._request.metrics
        if metrics is not None and metrics.path and Path(metrics.path).is_socket():
            Path(metrics.path).unlink(missing_ok=True)
