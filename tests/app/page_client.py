"""A visitor without a browser: uploads a picture and reads what the page answers."""

import json
import secrets
from typing import Any

import httpx


class Busy(Exception):  # noqa: N818 - no error
    """The server has said that it is."""


class Client:
    """One visitor, with a session of its own."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=120)
        self.session = secrets.token_hex(8)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path)

    def upload(self, content: bytes, name: str) -> str:
        """Returns the path that the server gives to the file."""
        return _answer(self._http.post("/gradio_api/upload", files={"files": (name, content)}))[0]

    def join(self, path: str) -> httpx.Response:
        """Asks for a look at a file with both models."""
        described = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return self._http.post(
            "/gradio_api/queue/join",
            json={
                "data": [described, ["first", "second"], 0.2, 0.45, [], 1],
                "fn_index": self._number_of("look"),
                "session_hash": self.session,
            },
        )

    def look(self, content: bytes, name: str = "a.png") -> str:
        """Returns the HTML that shows the picture.

        Raises:
            Busy: the server has refused.
        """
        _answer(self.join(self.upload(content, name)))
        answer = self.completed()
        assert answer["success"], answer
        return answer["output"]["data"][0]

    def completed(self) -> dict[str, Any]:
        """Returns the message with the result."""
        query = {"session_hash": self.session}
        with self._http.stream("GET", "/gradio_api/queue/data", params=query) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    message = json.loads(line.removeprefix("data: "))
                    if message["msg"] == "process_completed":
                        return message
        raise AssertionError("the answer was lost")

    def _number_of(self, name: str) -> int:
        functions = self.get("/config").json()["dependencies"]
        return next(one["id"] for one in functions if one["api_name"] == name)


def _answer(response: httpx.Response) -> Any:
    if response.status_code == 503:
        assert response.json()["detail"].startswith(("busy: ", "Queue is full"))
        raise Busy
    response.raise_for_status()
    return response.json()
