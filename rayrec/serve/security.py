"""The bearer token: who needs one, and the check that stands before every route."""

import hashlib
import hmac
import ipaddress
import os

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = ("/healthz", "/readyz")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on the host; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def required_token(host: str, token_env: str) -> str | None:
    """The token that requests must carry, or None where the endpoint is open to this machine alone.

    Args:
        host: the address to listen on.
        token_env: name of the environment variable that holds the token.

    Raises:
        ValueError: others can reach the endpoint and there is no token.
    """
    token = os.environ.get(token_env, "").strip()
    if token:
        return token
    # HAProxy, Ray Serve's faster proxy, listens on all interfaces whatever the host says.
    if not is_loopback(host) or os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        raise ValueError(
            f"serving on {host} is open to other machines and {token_env} is not set; "
            f"set {token_env} to a long random token, or serve on 127.0.0.1 without RAY_SERVE_ENABLE_HA_PROXY"
        )
    return None


def token_digest(token: str) -> bytes:
    """What a replica keeps instead of the token, so that the cluster's state does not hold it."""
    return hashlib.sha256(token.encode()).digest()


class RequireToken:
    """ASGI middleware that answers 401 to requests without the token, but for OPEN_PATHS."""

    def __init__(self, app: ASGIApp, digest: bytes) -> None:
        """Args:
        app: the application behind the check.
        digest: token_digest of the expected token.
        """
        self.app = app
        self.digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on or answers 401."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
            right = hmac.compare_digest(hashlib.sha256(given.strip().encode("latin-1")).digest(), self.digest)
            if kind.lower() != "bearer" or not right:
                problem = "the bearer token is wrong" if given else "this endpoint needs a bearer token"
                answer = JSONResponse(
                    {"detail": f"{problem}; send the header 'Authorization: Bearer TOKEN'"},
                    status_code=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
                return await answer(scope, receive, send)
        await self.app(scope, receive, send)
