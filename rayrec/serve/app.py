"""One bundle behind Ray Serve: replicas that scale with the load and answer requests in batches."""

import asyncio
import math
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from fastapi import FastAPI
from ray import serve

from rayrec import storage
from rayrec.export.bundle import load_bundle
from rayrec.privacy import redaction_of
from rayrec.serve.api import build_api
from rayrec.serve.client import wait_ready
from rayrec.serve.config import ServeConfig
from rayrec.serve.ranker import RequestRanker
from rayrec.serve.requests import ModelInfo, Ranking, RankRequest, Recommendation, RecommendRequest
from rayrec.serve.security import required_token, token_digest

APPLICATION = "rayrec"
READY_TIMEOUT_S = 120.0


class Replica:
    """Loads the bundle, scores a probe, then answers; the model runs in one thread, one batch at a time."""

    def __init__(self, bundle_uri: str, config: ServeConfig, digest: bytes | None) -> None:
        """Args:
        bundle_uri: a published bundle.
        config: limits and batching.
        digest: token_digest of the token, or None.
        """
        if config.cpus_per_replica <= 1:
            torch.set_num_threads(1)
        self.config = config
        self.digest = digest
        self.ranker = RequestRanker(load_bundle(bundle_uri))
        self.ranker.bundle.privacy.load()
        self.thread = ThreadPoolExecutor(1)
        probe = self.ranker.recommend([RecommendRequest(profile="anything", k=1)])[0]
        if not probe.items or not math.isfinite(probe.items[0].like_probability):
            raise ValueError(f"the bundle {bundle_uri} answered the probe with {probe.items}; export it again")

        async def together(requests: Sequence[RecommendRequest]) -> list[Recommendation]:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.thread, self.ranker.recommend, requests)

        batched = serve.batch(max_batch_size=config.max_batch, batch_wait_timeout_s=config.batch_wait_ms / 1000)
        self.recommend_together = batched(together)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_api(self, self.config, self.digest)

    async def recommend(self, request: RecommendRequest) -> Recommendation:
        """One request's share of a batch."""
        answer: Recommendation = await self.recommend_together(request)
        return answer

    async def rank(self, request: RankRequest) -> Ranking:
        """The candidates in the user's order."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, self.ranker.rank, request)

    async def ready(self) -> ModelInfo:
        """The model; a replica takes no request before the probe in its constructor was scored."""
        return self.ranker.model


def _free_port(host: str, port: int) -> int:
    try:
        with socket.create_server((host, port)) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host}:{port} ({error.strerror or error}); set serve.host to an address of this "
            "machine and serve.port to a free port (0 finds one)"
        ) from None


def deploy(bundle_uri: str, config: ServeConfig) -> str:
    """Starts Ray Serve with one bundle and waits until it answers.

    Args:
        bundle_uri: a published bundle.
        config: where to listen and how to scale.

    Returns:
        The base URL.

    Raises:
        ValueError: no bundle there, what redacts requests as it asks is not installed, no token where one is needed,
            the address is taken, or Serve already runs.
    """
    redaction_of(storage.manifest(bundle_uri, "bundle")["privacy"])
    token = required_token(config.host, config.token_env)
    port = _free_port(config.host, config.port)
    if serve.status().proxies:
        raise ValueError(
            "Ray Serve already runs on this cluster and keeps the address it has; stop it (`serve shutdown`) or use "
            "another cluster"
        )
    deployment = serve.deployment(
        name="bundle",
        ray_actor_options={"num_cpus": config.cpus_per_replica},
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.target_ongoing_requests,
            "upscale_delay_s": config.upscale_delay_s,
            "downscale_delay_s": config.downscale_delay_s,
        },
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        logging_config={"enable_access_log": False},
    )(serve.ingress()(Replica))
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)
    url = f"http://{host}:{port}"
    try:
        serve.start(http_options={"host": config.host, "port": port})
        digest = None if token is None else token_digest(token)
        serve.run(deployment.bind(storage.absolute(bundle_uri), config, digest), name=APPLICATION, route_prefix="/")
        wait_ready(url, READY_TIMEOUT_S)
    except BaseException:
        stop()
        raise
    return url


def stop() -> None:
    """Shuts Serve down: replicas, proxies and controller."""
    serve.shutdown()  # type: ignore[no-untyped-call]


def serve_forever(bundle_uri: str, config: ServeConfig, on_ready: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM, then stops cleanly; called from the main thread.

    Args:
        bundle_uri: a published bundle.
        config: where to listen and how to scale.
        on_ready: called with the base URL once requests are answered.
    """
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        url = deploy(bundle_uri, config)
        try:
            on_ready(url)
            asked.wait()
        finally:
            stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
