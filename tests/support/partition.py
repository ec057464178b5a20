"""A network that drops every packet, without rules of a firewall and without being root.

The kernel throws away what arrives for a socket whose filter accepts nothing, before TCP sees it:
no data, no acknowledgment, no reset. To the other end that is a partition.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

import pytest

from .proxy import FaultProxy

_SO_ATTACH_FILTER = 26
_ACCEPT_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # the one instruction: return 0

needs_partition = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="socket filters are Linux's"
)


def deafen(one: socket.socket) -> None:
    """Let *one* receive nothing any more, not even an acknowledgment."""
    program = ctypes.create_string_buffer(_ACCEPT_NOTHING)
    attach = struct.pack("HL", 1, ctypes.addressof(program))
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attach)


def partition(proxy: FaultProxy) -> None:
    """Cut the open connections of *proxy* off from their clients. New ones are not affected."""
    for link in list(proxy._links):
        deafen(link.client)
