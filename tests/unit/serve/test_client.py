"""The client against the real application on a real socket."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from rayrec.serve import client
from rayrec.serve.api import build_api
from rayrec.serve.config import ServeConfig
from rayrec.serve.security import token_digest
from tests.unit.serve.test_api import DirectAnswers


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    api = build_api(DirectAnswers(), ServeConfig(max_k=5), token_digest("s3cret"))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    listener.close()


def test_wait_ready_returns_the_model(url: str):
    assert client.wait_ready(url, 10)["stage"] == "tuned"


def test_recommend_takes_ids_and_events(url: str):
    by_id = client.recommend(url, history=["space1"], k=2, token="s3cret")
    by_event = client.recommend(f"{url}/", history=[{"item_id": "space1", "timestamp": 3}], k=2, token="s3cret")
    assert [item["item_id"] for item in by_id["items"]] == ["space3", "space2"]
    assert by_id == by_event


def test_rank_takes_an_item_by_its_text(url: str):
    answer = client.rank(
        url, profile="space", candidates=[{"item_id": "love1"}, {"title": "Space Whales"}], token="s3cret"
    )
    assert [item["title"] for item in answer["items"]] == ["Space Whales", "Paris Letters"]


def test_a_refused_request_is_a_value_error_with_the_field(url: str):
    with pytest.raises(ValueError, match="answered 422: k: Input should be less than or equal to 5"):
        client.recommend(url, profile="space", k=6, token="s3cret")


def test_a_wrong_token_is_a_value_error_with_the_remedy(url: str):
    with pytest.raises(ValueError, match="answered 401: the bearer token is wrong; send the header"):
        client.recommend(url, profile="space", token="wrong")


def test_a_path_below_the_url_that_does_not_exist_is_a_value_error(url: str):
    with pytest.raises(ValueError, match="answered 404: Not Found"):
        client.recommend(f"{url}/elsewhere", profile="space", token="s3cret")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_no_server_is_a_value_error_that_names_the_verb():
    with pytest.raises(ValueError, match="start the endpoint with `rayrec serve`"):
        client.recommend(f"http://127.0.0.1:{free_port()}", profile="space")


def test_wait_ready_gives_up_in_time():
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"was not ready after 0\.3 s; its last answer: ConnectError"):
        client.wait_ready(f"http://127.0.0.1:{free_port()}", 0.3)
    assert time.monotonic() - start < 5
