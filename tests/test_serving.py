"""The HTTP server: the same answers as Python gives, any id, and no request lost when versions change."""

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import urlencode, urlsplit

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from mfpipe import rated
from mfpipe.executors import executor
from mfpipe.fit import fit
from mfpipe.fitted import FittedModel
from mfpipe.models import BiasedALS, UserMean
from mfpipe.ratings import encode
from mfpipe.recommend import Recommender
from mfpipe.serving import Watched, application
from mfpipe.similar import Similar
from mfpipe.store import Store

HOSTILE = ["007", "7", "NA", "null", "<script>", "../x", "a/b?c&d=e#f", "İß", "é", "e\u0301", "=1+1", "\u202eevil",
           "x" * 5000, "' OR 1=1", "%2e%2e"]  # fmt: skip


@pytest.fixture(scope="module")
def ratings():
    """Every hostile id as a user and as an item, each user with ratings of their own."""
    rng = np.random.default_rng(0)
    pairs = [(u, i) for u in range(len(HOSTILE)) for i in rng.permutation(len(HOSTILE))[: 3 + u % 5]]
    columns = (
        pa.array([HOSTILE[pair[side]] for pair in pairs], pa.string()).dictionary_encode() for side in (0, 1)
    )
    return encode(*([column] for column in columns), rng.integers(1, 6, len(pairs)) * 1.0)


def fitted_to(ratings, seed=0, model=None):
    model = model or BiasedALS(3, 0.05, max_iter=2, tol=0, random_state=seed)
    with executor(ratings, model.storage, "serial") as where:
        return FittedModel.of(fit(model, ratings, where), ratings)


def publish(store, ratings, fitted, keep=True):
    about = {"data": {"global_mean": fitted.baseline.global_mean}, "converged": True}
    artifacts = {rated.FILE: rated.table_of(ratings)} if keep else {}
    return store.publish("m", fitted, about, artifacts)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def client(store, ratings):
    publish(store, ratings, fitted_to(ratings))
    with TestClient(application(Watched(store, "m"))) as client:
        yield client


def test_every_id_is_just_an_id(client, ratings):
    fitted = fitted_to(ratings)
    for mine in HOSTILE:
        got = client.get("/recommend", params={"user": mine, "n": 3}).json()["users"]
        recommender = Recommender(fitted, 3)
        assert got == recommender.records([mine], recommender.for_users(pa.array([mine])))
        assert got[0]["source"] == "known"
        got = client.get("/similar", params={"item": mine, "n": 2}).json()["similar"]
        assert got == Similar(fitted).records([mine], 2)
        assert client.get("/explain", params={"user": mine, "item": mine}).json()["user"] == mine
    pairs = [[mine, other] for mine in HOSTILE for other in (*HOSTILE[::4], "unknown")]
    got = client.post("/predict", json={"pairs": pairs}).json()["predictions"]
    predicted, _ = fitted.predict(*(pa.array(ids) for ids in zip(*pairs, strict=True)))
    assert [row["prediction"] for row in got] == predicted.tolist()
    assert [[row["user"], row["item"]] for row in got] == pairs
    assert {row["source"] for row in got} == {"known", "cold item"}


def test_integers_are_their_text_and_nothing_else_is_an_id(client):
    got = client.post("/predict", json={"pairs": [[7, "7"], ["7", 7], ["007", 7]]}).json()["predictions"]
    assert got[0] == got[1]
    assert got[0]["prediction"] != got[2]["prediction"]
    for wrong in (7.0, True, None, [], "\ud800"):
        content = json.dumps({"pairs": [[wrong, "7"]]})
        assert client.post("/predict", content=content).status_code == 422
    assert client.post("/predict", content='{"pairs": [[' + "9" * 5000 + ', "7"]]}').status_code in (400, 422)
    assert client.post("/predict", content="{").status_code == 422


def test_fold_in_is_the_half_step_and_leaves_out_what_was_rated(client, ratings):
    fitted = fitted_to(ratings)
    row = int(fitted.users.rows(pa.array(["İß"]))[0])
    mine = ratings.user == row
    given = [
        {"item": ratings.items[i], "rating": r}
        for i, r in zip(ratings.item[mine], ratings.rating[mine], strict=True)
    ]
    got = client.post("/fold-in", json={"ratings": given[::-1], "n": 50}).json()
    with executor(ratings, fitted.model.storage, "serial") as where:
        expected = where.half_step(fitted.model, "user", fitted.factors.user[:0], fitted.factors.item).rows[
            row
        ]
    assert np.array_equal(np.array(got["factors"], np.float32), expected)
    assert (got["source"], got["left_out"], got["columns"][0]) == ("folded in", 0, "bias")
    assert {one["item"] for one in got["items"]} == set(HOSTILE) - {one["item"] for one in given}
    again = client.post("/fold-in", json={"ratings": [*given, given[0]]})
    assert (again.status_code, again.json()["detail"]) == (422, "ratings: an item is rated twice")
    huge = client.post("/fold-in", json={"ratings": [{"item": "7", "rating": 1e300}]})
    assert huge.status_code == 422
    assert "not finite" in huge.json()["detail"]
    strange = client.post("/fold-in", json={"ratings": [{"item": "?", "rating": 1}]}).json()
    assert (strange["source"], strange["left_out"]) == ("biases", 1)


def test_wrong_questions_are_422_and_say_why(client):
    for path, why in {
        "/similar?item=unknown": "'unknown' was not trained on",
        "/similar": "give one of them",
        "/similar?item=7&user=7": "give one of them",
        "/recommend?user=7&n=0": "greater than or equal to 1",
        "/recommend": "Field required",
    }.items():
        got = client.get(path)
        assert got.status_code == 422
        assert why in got.text
    assert client.get("/nothing").status_code == 404


def test_metrics_health_and_the_schema_page(client):
    client.get("/recommend?user=7")
    client.get("/recommend?user=7&n=x")
    client.get("/no/such<path>")
    metrics = client.get("/metrics").text
    assert 'mfpipe_requests_total{path="/recommend",status="200"} 1' in metrics
    assert 'mfpipe_requests_total{path="/recommend",status="422"} 1' in metrics
    assert 'mfpipe_request_seconds_count{path="/recommend"} 2' in metrics
    assert 'mfpipe_requests_total{path="other",status="404"} 1' in metrics
    assert client.get("/health").json() == {"name": "m", "version": "1", "status": "ok", "problem": None}
    page = client.get("/").text
    paths = client.get("/openapi.json").json()["paths"]
    assert all(path in page for path in paths)
    assert {"/recommend", "/similar", "/predict", "/fold-in", "/health", "/metrics"} <= set(paths)
    assert "http" not in page.replace("http-equiv", "")  # nothing is fetched from elsewhere


def test_a_damaged_version_leaves_the_old_one_in_service(store, ratings):
    publish(store, ratings, fitted_to(ratings))
    watched = Watched(store, "m")
    with TestClient(application(watched)) as client:
        damaged = publish(store, ratings, fitted_to(ratings, 1)).path / "item_factors.parquet"
        damaged.write_bytes(damaged.read_bytes()[:-1])
        watched.look()
        health = client.get("/health").json()
        assert (health["version"], health["status"]) == ("1", "stale")
        assert "item_factors.parquet" in health["problem"]
        assert client.get("/recommend?user=7").json()["version"] == "1"
        publish(store, ratings, fitted_to(ratings, 2))
        watched.look()
        assert client.get("/health").json() == {"name": "m", "version": "3", "status": "ok", "problem": None}
        assert client.get("/recommend?user=7").json()["version"] == "3"


def test_a_pinned_version_stays_and_old_or_plain_ones_say_what_they_lack(store, ratings):
    publish(store, ratings, fitted_to(ratings), keep=False)
    publish(store, ratings, fitted_to(ratings, model=UserMean()))
    watched = Watched(store, "m", "1")
    with TestClient(application(watched)) as client:
        assert client.get("/health").json()["version"] == "1"
        got = client.get("/recommend?user=7")
        assert got.status_code == 422
        assert "does not keep them" in got.text
        assert client.get("/recommend?user=7&include_seen=true").status_code == 200
    with TestClient(application(Watched(store, "m"))) as client:
        assert "user-mean has no factors" in client.get("/similar?item=7").text
        assert len(client.get("/recommend?user=7").json()["users"][0]["items"]) == 10


def test_no_request_fails_while_versions_are_published(store, ratings):
    fits = {str(number): fitted_to(ratings, number) for number in range(1, 7)}
    expected = {}
    for number, fitted in fits.items():
        recommender = Recommender(fitted, 5)
        for user in HOSTILE:
            expected[number, user] = recommender.records([user], recommender.for_users(pa.array([user])))
    publish(store, ratings, fits["1"])
    command = [sys.executable, "-m", "mfpipe", "serve", "m", "--store", str(store.path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = urlsplit(server.stdout.readline().split()[-1])
            wrong, seen, stop = [], set(), threading.Event()

            def ask(first: int) -> None:
                connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
                while not stop.is_set():
                    user = HOSTILE[first % len(HOSTILE)]
                    connection.request("GET", "/recommend?" + urlencode({"user": user, "n": 5}))
                    response = connection.getresponse()
                    got = json.loads(response.read())
                    if response.status != 200 or got["users"] != expected[got["version"], user]:
                        wrong.append((response.status, got))
                    seen.add(got["version"])
                    first += 1

            threads = [threading.Thread(target=ask, args=(k,)) for k in range(8)]
            for thread in threads:
                thread.start()
            for number in list(fits)[1:]:
                publish(store, ratings, fits[number])
                deadline = time.monotonic() + 30
                while number not in seen and time.monotonic() < deadline:
                    time.sleep(0.02)
            stop.set()
            for thread in threads:
                thread.join(60)
            assert wrong == []
            assert seen == set(fits)
        finally:
            server.send_signal(signal.SIGTERM)
            _, err = server.communicate(timeout=30)
    assert server.returncode == 143
    assert "Traceback" not in err
