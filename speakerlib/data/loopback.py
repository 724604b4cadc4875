"""Tells this computer's own addresses from those of others."""

import ipaddress


def is_loopback(host):
    """Whether a URL's host (None: it has none) is this computer itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:  # a name
        return False
