"""The endpoint: where it listens, how it scales, how it batches."""

from pydantic import BaseModel, ConfigDict, Field


class ServeConfig(BaseModel):
    """Ray Serve deployment of one bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    token_env: str = "RAYREC_TOKEN"
    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(2, ge=1)
    target_ongoing_requests: float = Field(8, gt=0)
    max_ongoing_requests: int = Field(64, ge=1)
    max_queued_requests: int = Field(256, ge=1)
    upscale_delay_s: float = Field(5, ge=0)
    downscale_delay_s: float = Field(60, ge=0)
    cpus_per_replica: float = Field(0.5, gt=0)
    max_batch: int = Field(32, ge=1)
    batch_wait_ms: float = Field(5, ge=0)
    max_k: int = Field(100, ge=1)
    max_candidates: int = Field(500, ge=1)
    max_history: int = Field(1000, ge=1)
    max_text: int = Field(2000, ge=1)
