"""Asks the archives' server for files with a key or a password that appears in no message, log or file."""

import getpass
import logging
import os
import re
import sys
from contextlib import contextmanager, suppress
from urllib.parse import parse_qsl, quote, quote_plus, unquote_plus, urljoin, urlsplit

from speakerlib.data.loopback import is_loopback

_SECRET_NAME = re.compile(r"key|token|auth|pass|pwd|secret|signature|credential|^(sig|k|user)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"(?=(.*\d){4})(?=.*[A-Za-z])[\w+=~-]{20,}")
_REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5


def check_template(template):
    """Returns the template if the archives may be asked for by it; ValueError, without showing it, if not.

    Such as 'https://host/path?key={key}&file={file}': https (or a loopback host), {file} once, {key} at most once,
    no user or password, and no key typed in.
    """
    advice = "Expected 'https://host/path?key={key}&file={file}', or one without {key} for a user and a password."
    template = str(template or "").strip()
    if not template:
        raise ValueError("no URL template (--url-template, or VOXCELEB_URL) says where the archives are. The authors "
                         f"of VoxCeleb send such an address with the access key, on request. {advice}")
    try:
        parts = urlsplit(template)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ValueError(f"the URL template is not the address of a server. {advice}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL template holds a user or a password: take them out of it, and set VOXCELEB_USER and "
                         "VOXCELEB_PASSWORD.")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(f"the URL template asks {host} by http, which shows the key to everyone on the way: write "
                         "https.")
    asked = f"{parts.path}?{parts.query}"  # what follows # is never sent
    if asked.count("{file}") != 1 or template.count("{file}") != 1 or template.count("{key}") != asked.count("{key}"):
        raise ValueError(f"the URL template must hold {{file}} once, after the host. {advice}")
    if asked.count("{key}") > 1 or re.search("[{}]", re.sub(r"\{(file|key)\}", "", template)):
        raise ValueError(f"the URL template holds braces beside one {{key}} and one {{file}}. {advice}")
    pairs = [("", part) for part in parts.path.split("/")] + parse_qsl(parts.query)
    if any("{" not in value and (_SECRET_NAME.search(name) or _SECRET_VALUE.fullmatch(value))
           for name, value in pairs):
        raise ValueError("the URL template seems to hold a key that was typed in: write {key} in its place and set "
                         "VOXCELEB_KEY, so that the key stays out of the shell's history and of logs.")
    return template


def find_credentials(template):
    """The secrets that the template asks for, {"key": ...} or {"user": ..., "password": ...}.

    From VOXCELEB_KEY, or VOXCELEB_USER and VOXCELEB_PASSWORD, or asked for on a terminal. PermissionError if absent.
    """
    variables = {"key": "VOXCELEB_KEY"} if "{key}" in template else {"user": "VOXCELEB_USER",
                                                                    "password": "VOXCELEB_PASSWORD"}
    found = {name: os.environ.get(variable, "").strip() for name, variable in variables.items()}
    for name in [name for name, value in found.items() if not value]:
        if sys.stdin is not None and sys.stdin.isatty():
            with suppress(EOFError):
                found[name] = getpass.getpass(f"VoxCeleb {'access ' * (name == 'key')}{name} (not shown): ").strip()
    missing = [variable for name, variable in variables.items() if not found[name]]
    if missing:
        other = ("the template holds no {key}; for an access key write one into it" if "user" in variables else
                 "the template holds a {key}; for a user and a password leave it out")
        raise PermissionError(f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not set, and there is no "
                              f"terminal to ask on: set the environment variable ({other}).")
    return found


@contextmanager
def connection(template, credentials, timeout=60.0):
    """Yields get(file, offset): the answer (requests.Response, streamed) to a request from that byte on.

    get raises ConnectionError if there is no answer in `timeout` seconds, PermissionError if the server sends the
    request on to where the secrets may not go. No secret is in any message, nor in what urllib3 logs meanwhile.
    """
    import requests

    secrets = [value for name, value in credentials.items() if name != "user"]
    auth = _no_auth
    if "user" in credentials:
        auth = requests.auth.HTTPBasicAuth(*(credentials[name].encode() for name in ("user", "password")))
    with requests.Session() as session, _redacted_logs(secrets):
        session.get_redirect_target = lambda response: None  # redirects are ours to judge
        session.trust_env = not is_loopback(urlsplit(template).hostname)

        def get(file, offset=0):
            url = template.replace("{file}", quote(file, safe="")).replace(
                "{key}", quote(credentials.get("key", ""), safe=""))
            headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
            first = url
            for _ in range(MOST_REDIRECTS + 1):
                response = _send(session, url, headers, auth if _origin(url) == _origin(first) else _no_auth, timeout)
                location = response.headers.get("Location")
                if response.status_code not in _REDIRECTS or not location:
                    return response
                response.close()
                url = _follow(url, location, secrets)
            raise PermissionError(f"{urlsplit(first).hostname} sends the request for {file} round in a circle.")

        yield get


def _send(session, url, headers, auth, timeout):
    """One request; what goes wrong comes out in words of ours, since the library's hold the address."""
    import requests

    host, trouble = urlsplit(url).hostname, ""
    try:
        response = session.get(url, headers=headers, auth=auth, timeout=timeout, stream=True, allow_redirects=False)
    except requests.exceptions.SSLError:
        trouble = f"{host}'s certificate was not accepted, or the encrypted connection failed"
    except requests.Timeout:
        trouble = f"{host} did not answer in {timeout:g} s"
    except (requests.RequestException, UnicodeError) as error:
        trouble = f"no connection to {host} ({type(error).__name__})"
    if trouble:  # raised here, so that the library's exception is not attached to this one
        raise ConnectionError(trouble)
    return response


def _follow(url, location, secrets):
    """The address that a server sends us on to; PermissionError if a secret would leave for another host."""
    host, reason, target = urlsplit(url).hostname, "", ""
    try:
        target = urljoin(url, location)
        parts, plain = urlsplit(target), unquote_plus(unquote_plus(target))
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
            reason = "an address without https"
        elif parts.username is not None or parts.password is not None:
            reason = "an address that holds a user or a password"
        elif _origin(target) != _origin(url) and any(form in text for secret in secrets for text in (target, plain)
                                                     for form in _forms(secret)):
            reason = f"another host, {parts.hostname}, with your key in the address"
    except ValueError:
        reason = "something that is not an address"
    if reason:
        raise PermissionError(f"{host} sends the request on to {reason}: refused. Ask the archives' authors for the "
                              "present address, and put that into the URL template.")
    return target


@contextmanager
def _redacted_logs(secrets):
    """urllib3 logs every address that it asks for: while the block runs, with the secrets taken out."""
    import urllib3  # noqa: F401  (so that its loggers exist)

    def redact(record):
        text = record.getMessage()
        if any(form in text for secret in secrets for form in _forms(secret)):
            for secret in secrets:
                for form in _forms(secret):
                    text = text.replace(form, "***")
            record.msg, record.args, record.exc_info, record.exc_text = text, (), None, None
        return True

    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)
               if name.split(".")[0] in ("urllib3", "requests")]
    for logger in loggers:
        logger.addFilter(redact)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(redact)


def _forms(secret):
    """How a secret may be spelt in an address, the longest first."""
    return sorted({secret, quote(secret, safe=""), quote(secret), quote_plus(secret)}, key=len, reverse=True)


def _origin(url):
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def _no_auth(request):  # given to requests, it keeps a .netrc file's passwords out
    return request
