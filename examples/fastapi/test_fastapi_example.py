"""The example, without a server, and with the one that HOLDFAST_URL and HOLDFAST_API_KEY name."""

from __future__ import annotations

from fastapi.testclient import TestClient
from thumbnails import api, app

from holdfast import Worker


def test_without_a_server() -> None:
    with app.testing() as box, TestClient(api) as client:
        job = client.post("/thumbnails", json={"url": "https://example.com/a.png"}).json()["job"]
        assert box.jobs[0].payload == {"url": "https://example.com/a.png", "width": 120}
        assert client.get(f"/thumbnails/{job}?wait=1").json()["result"] == {"width": 120, "height": 90}
        assert client.post("/thumbnails", json={"url": "a", "width": 0}).status_code == 422


def test_with_a_server() -> None:
    app.declare()
    with Worker(app), TestClient(api) as client:
        job = client.post("/thumbnails", json={"url": "https://example.com/a.png", "width": 400}).json()["job"]
        shown = client.get(f"/thumbnails/{job}?wait=30").json()
        assert shown == {"state": "completed", "result": {"width": 400, "height": 300}, "progress": {"percent": 50}}
        assert client.get("/thumbnails/01JD3V0S7W8Q4M2XKZC5T9R6BH").status_code == 404
