"""`aga serve` over real connections: what it answers, how it batches, and that nothing is lost when it ends."""

import asyncio
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import MagicMock

import numpy as np
import pytest
from command_line import aga, free_port
from demo_site import SENTENCE, TOKEN, make_place
from PIL import Image

from aga_model.cli.galleries import serve as serve_module
from aga_model.cli.galleries import serving as serving_module
from aga_model.gallery import Filter, Gallery, GallerySettings, Hit, verify
from aga_model.search import PersonEncoder, SearchOptions, answer_image, answer_sentence, hit_values
from aga_model.service import Client, GallerySearch, ServerError
from aga_model.service.guard import Refusal
from aga_model.service.rest import Service, address, listen, make_server
from aga_model.service.rest.batching import Batches


@pytest.fixture(scope="module")
def place(model_folder, tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("served"), model_folder)


@contextmanager
def serving(place, token=None, **options):
    search = GallerySearch(Gallery.open(place.gallery), place.encoder, **options)
    server = make_server(Service(search), token, drain_seconds=20)
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Client(f"http://127.0.0.1:{listening.getsockname()[1]}", token)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(place):
    with serving(place) as client:
        yield client


def wanted(place, sentence=SENTENCE, **options):
    """The same search without a server."""
    return answer_sentence(Gallery.open(place.gallery), place.encoder, sentence, SearchOptions(**options))


def same_hits(found, answer):
    expected = json.loads(json.dumps([hit_values(hit) for hit in answer.hits]))
    assert [hit["id"] for hit in found["hits"]] == [hit["id"] for hit in expected]
    for one, two in zip(found["hits"], expected):
        assert one["score"] == pytest.approx(two["score"], abs=1e-6)
        assert one | {"score": 0} == two | {"score": 0}


def test_a_sentence_is_answered_as_without_a_server(place, client):
    found = client.search(SENTENCE, top_k=4)
    answer = wanted(place, top_k=4)
    same_hits(found, answer)
    assert found["query"] == SENTENCE and found["notes"] == answer.notes and found["error"] is None


def test_options_hold(place, client):
    where = Filter(["camera 1"], since=1_767_265_200.0)
    found = client.search(SENTENCE, cameras=["camera 1"], since="2026-01-01T00:00", one_per="person", top_k=3)
    same_hits(found, wanted(place, top_k=3, where=where, one_per="person"))
    persons = client.search(SENTENCE, persons=["1"])
    same_hits(persons, wanted(place, top_k=10, where=Filter(person_ids=["1"])))
    assert {hit["person_id"] for hit in persons["hits"]} == {"1"}


def test_several_sentences_are_answered_each_for_itself(place, client):
    found = client.search_batch([SENTENCE, "...", "a girl in a yellow dress"], top_k=2)
    same_hits(found[0], wanted(place, top_k=2))
    same_hits(found[2], wanted(place, "a girl in a yellow dress", top_k=2))
    assert found[1]["hits"] == [] and "holds no word" in found[1]["error"]


def test_an_image_finds_what_is_like_it(place, client):
    file = next(place.folder.glob("2_c.png"))
    with Image.open(file) as image:
        answer = answer_image(Gallery.open(place.gallery), place.encoder, image.convert("RGB"), "it", SearchOptions(3))
    found = client.search_image(file, top_k=3)
    same_hits(found, answer)
    assert found["hits"][0]["score"] == pytest.approx(1, abs=1e-5)


def test_image_facts_and_explanation_of_a_hit(place, client):
    hit = client.search(SENTENCE, top_k=1)["hits"][0]
    row = next(Gallery.open(place.gallery).rows(Filter(ids=[hit["id"]])))
    assert client.facts(hit["id"]) == json.loads(json.dumps(row.to_dict()))
    shown = Image.open(io.BytesIO(client.image(hit["id"])))
    with Image.open(row.path) as image:
        assert shown.format == "JPEG" and shown.size == image.size
        difference = np.asarray(shown.convert("RGB"), float) - np.asarray(image.convert("RGB"), float)
    assert np.abs(difference).mean() < 12  # a JPEG of noise
    direct = GallerySearch(Gallery.open(place.gallery), place.encoder).explain(Hit(1, 0.0, row), SENTENCE)
    explained = Image.open(io.BytesIO(client.explain(SENTENCE, hit["id"])))
    assert explained.format == "PNG"
    np.testing.assert_array_equal(np.asarray(explained), np.asarray(direct))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"query": ""}, "the query is empty"),
        ({"top_k": 0}, "top_k: Input should be greater than or equal to 1"),
        ({"top_n": 3}, "top_n: Extra inputs are not permitted"),
        ({"since": "soon"}, "from"),
        ({"cameras": ["nowhere"]}, "no image of one of these cameras"),
        ({"one_per": "day"}, "one_per"),
    ],
)
def test_what_is_wrong_is_said(client, options, said):
    with pytest.raises(ServerError, match=said):
        client.search(**{"query": SENTENCE} | options)


def test_an_image_that_is_gone_is_not_found(client):
    with pytest.raises(ServerError, match="no longer, in the gallery"):
        client.facts("0" * 32)


def raw(client, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(client.url.removeprefix("http://"), timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return response.status, response.read(), response


@pytest.mark.parametrize(("method", "path"), [("GET", "/docs"), ("POST", "/health"), ("GET", "/v1/images/../../etc"),
                                              ("GET", "/v1/images/" + "0" * 31), ("PUT", "/v1/search")])  # fmt: skip
def test_there_are_no_other_routes(client, method, path):
    status, content, _ = raw(client, method, path)
    assert status == 404 and json.loads(content)["detail"].startswith("There is no such route")


def test_it_describes_itself(client):
    assert client.health()["images"] == 6
    described = json.loads(raw(client, "GET", "/openapi.json")[1])
    assert set(described["paths"]) == {
        "/health", "/metrics", "/v1/search", "/v1/search/batch", "/v1/search/image", "/v1/explain",
        "/v1/images/{row_id}", "/v1/images/{row_id}/facts",
    }  # fmt: skip
    assert "503" in described["paths"]["/v1/search"]["post"]["responses"]


def test_an_answer_does_not_wait_for_an_acknowledgement():
    """An answer has two parts; the system would hold the second back for 40 ms."""
    listening = listen("127.0.0.1", 0)
    with socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        accepted.close()
    listening.close()


def test_metrics_count_requests_and_hold_no_query(client):
    def count(text):
        line = 'aga_requests_total{route="/v1/search",status="200"} '
        return sum(float(each.removeprefix(line)) for each in text.splitlines() if each.startswith(line))

    before = count(raw(client, "GET", "/metrics")[1].decode())
    for _ in range(3):
        client.search("a very particular person")
    text = raw(client, "GET", "/metrics")[1].decode()
    assert count(text) == before + 3 and "aga_gallery_images 6.0" in text and "particular" not in text


def test_only_who_has_the_token_is_answered(place):
    with serving(place, TOKEN) as client:
        assert client.search(SENTENCE)["hits"]
        with pytest.raises(ServerError, match="asks for a token"):
            Client(client.url, "wrong").search(SENTENCE)
        for path in ("/health", "/metrics", "/openapi.json"):
            assert raw(client, "GET", path)[0] == 401


def test_searches_are_written_into_the_audit_log(place, tmp_path):
    gallery = Gallery.open(place.gallery)
    before = gallery.settings
    gallery.change_settings(GallerySettings(audit=str(tmp_path / "audit.jsonl"), purpose_required=True))
    try:
        with serving(place) as client:
            with pytest.raises(ServerError, match="for what purpose"):
                client.search(SENTENCE)
            client.search(SENTENCE, purpose="a missing child", top_k=2)
    finally:
        gallery.change_settings(before)
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["purpose"] for line in lines if line["action"] == "search"] == ["a missing child"]
    assert verify(tmp_path / "audit.jsonl").broken_at is None


def test_many_at_once_share_the_work_and_get_their_own_answers(place):
    """200 clients, each with a sentence of its own: every one gets its own answer."""
    sentences = [f"a person with {number} bags" for number in range(200)]
    with serving(place) as client:
        with ThreadPoolExecutor(200) as pool:
            found = list(pool.map(lambda sentence: client.search(sentence, top_k=3), sentences))
        text = raw(client, "GET", "/metrics")[1].decode()
    for sentence, answer in zip(sentences, found):
        assert answer["query"] == sentence
    for number in range(0, 200, 20):
        same_hits(found[number], wanted(place, sentences[number], top_k=3))
    (batches,) = [line for line in text.splitlines() if line.startswith("aga_batch_size_count")]
    assert float(batches.split()[1]) < 150


def ask_all(batches, questions):
    async def run():
        return await asyncio.gather(*(batches.ask(question) for question in questions), return_exceptions=True)

    return asyncio.run(run())


def test_questions_that_wait_are_answered_together_in_their_order():
    sizes = []

    def answer(questions):
        sizes.append(len(questions))
        time.sleep(0.01)
        return [question * 2 for question in questions]

    batches = Batches(answer, most_together=4)
    assert ask_all(batches, range(9)) == [number * 2 for number in range(9)]
    assert sum(sizes) == 9 and max(sizes) == 4 and len(sizes) <= 4
    batches.close()


def test_who_comes_when_too_many_wait_is_told_when_to_come_again():
    batches = Batches(lambda questions: time.sleep(0.05) or list(questions), most_together=1, most_waiting=3)
    found = ask_all(batches, range(8))
    refused = [each for each in found if isinstance(each, Refusal)]
    assert len(refused) == 5 and {(each.status, each.retry_seconds) for each in refused} == {(503, 1)}
    assert [each for each in found if not isinstance(each, Refusal)] == [0, 1, 2]
    batches.close()


def test_other_work_that_waits_is_counted_too():
    batches = Batches(list, most_waiting=2)

    async def run():
        works = [batches.run(time.sleep, 0.05) for _ in range(4)]
        return await asyncio.gather(*works, batches.ask("a question"), return_exceptions=True)

    found = asyncio.run(run())
    refused = [isinstance(each, Refusal) and each.status == 503 and each.retry_seconds >= 1 for each in found]
    assert refused == [False, False, True, True, True] and found[:2] == [None, None]
    assert batches.is_idle and ask_all(batches, ["a"]) == ["a"]
    batches.close()


def test_health_is_told_while_others_wait(place):
    """Whoever watches over the service must not end it because it is busy."""
    search = GallerySearch(Gallery.open(place.gallery), place.encoder)
    service = Service(search)

    async def run():
        busy = asyncio.create_task(service.batches.run(time.sleep, 2))
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        health = await service.health()
        took = time.perf_counter() - began
        await busy
        return health, took

    health, took = asyncio.run(run())
    assert health.images == 6 and took < 1


def test_a_batch_that_fails_fails_for_each_of_its_own_and_for_nobody_else():
    def answer(questions):
        if "bad" in questions:
            raise RuntimeError("broken")
        return list(questions)

    batches = Batches(answer, most_together=2)
    found = ask_all(batches, ["a", "bad", "b", "c"])
    assert [str(each) for each in found] == ["broken", "broken", "b", "c"]
    batches.close()


@pytest.mark.parametrize(
    ("host", "token", "shown"),
    [
        ("127.0.0.1", None, "listening on http://127.0.0.1:8000/  ("),
        ("0.0.0.0", None, "listening on http://127.0.0.1:8000/ token "),
        ("::", TOKEN, "listening on http://[::1]:8000/  ("),
    ],
)
def test_the_address_that_is_told_can_be_asked(monkeypatch, host, token, shown):
    """On all addresses it is this machine's; a token is told only where it was made."""
    for name in ("Gallery", "GallerySearch", "load_encoder", "Recorder"):
        monkeypatch.setattr(serving_module, name, MagicMock())
    web = MagicMock(address=address)
    web.listen.return_value.getsockname.return_value = (host, 8000)
    monkeypatch.setattr(serve_module, "_web_server", lambda: web)
    options = [] if token is None else ["--token", token]
    told = aga("serve", "--gallery", "g", "--host", host, *options, AGA_TOKEN="")
    assert shown in told.stdout and (token is None or token not in told.stdout)
    assert ("others can reach this service" in told.stderr) == (host != "127.0.0.1")


@contextmanager
def command(place, *arguments):
    """`aga serve` in a process of its own."""
    port = free_port()
    run = subprocess.Popen(
        [sys.executable, "-m", "aga_model", "serve", "--gallery", place.gallery, "--port", str(port), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"AGA_TOKEN": ""},
    )  # fmt: skip
    try:
        assert "listening on" in run.stdout.readline(), run.stderr.read()
        yield run, Client(f"http://127.0.0.1:{port}")
    finally:
        run.kill()
        run.wait()


def test_nothing_is_lost_when_it_is_reloaded_and_stopped(place):
    """Under load a reload and then the end: every request that was accepted is answered."""
    with command(place, "--drain", "20") as (run, client):
        client.search(SENTENCE)
        answered, lost, stopping = [], [], threading.Event()

        def ask():
            while True:
                try:
                    answered.append(len(client.search(SENTENCE, top_k=2)["hits"]))
                except ServerError as error:
                    if not stopping.is_set() or "refused" not in str(error):
                        lost.append(str(error))
                    return

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(answered) < 40:
            time.sleep(0.01)
        for _ in range(3):
            run.send_signal(signal.SIGHUP)
            time.sleep(0.1)
        before = len(answered)
        while len(answered) < before + 40:
            time.sleep(0.01)
        stopping.set()
        run.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        assert set(answered) == {2}
        assert lost == []
        assert run.wait(30) in (0, -signal.SIGTERM)


def test_a_reload_finds_what_was_made_anew_and_keeps_the_old_of_another_model(
    place, other_model_folder, model_folder, tmp_path
):
    out = tmp_path / "gallery"
    aga("index", place.folder / "1_a.png", "--model", model_folder, "--out", out)
    search = GallerySearch(Gallery.open(out), PersonEncoder.from_pretrained(model_folder, "cpu"))
    service = Service(search)
    aga("index", place.folder, "--model", model_folder, "--out", out, "--overwrite")
    service.reload()
    assert search.held.images == 6
    aga("index", place.folder, "--model", other_model_folder, "--out", out, "--overwrite")
    with pytest.raises(ValueError, match="was made with model"):
        service.reload()


def test_the_search_command_asks_it(place, client):
    there = ["search", "--server", client.url, SENTENCE, "--top-k", "3", "--camera", "camera 0", "--json"]
    found = json.loads(aga(*there).stdout)
    same_hits(found, wanted(place, top_k=3, where=Filter(["camera 0"])))
    table = aga("search", "--server", client.url, SENTENCE, "--camera", "camera 0").stdout
    assert f"{found['hits'][0]['score']:.4f}" in table
    image = aga("search", "--server", client.url, "--image", place.folder / "1_a.png", "--json").stdout
    assert json.loads(image)["hits"][0]["path"].endswith("1_a.png")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gallery", SENTENCE], "leave the gallery out"),
        ([SENTENCE, "--rerank", "5", "--save", "x.png"], "leave --rerank, --save out with --server"),
        ([], "give a sentence"),
        (["..."], "holds no word"),
    ],
)
def test_what_cannot_be_asked_of_it_is_said(client, arguments, said):
    assert said in aga("search", "--server", client.url, *arguments, code=2).output


def test_a_server_that_is_not_there_is_named():
    url = f"http://127.0.0.1:{free_port()}"
    assert f"the server {url} cannot be reached" in aga("search", "--server", url, SENTENCE, code=2).output


def test_without_a_gallery_and_a_server_both_are_named():
    assert "give a gallery" in aga("search", code=2).output
