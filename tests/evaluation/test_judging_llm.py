"""A model as a judge, tried against a stand-in for a server of chat completions on this machine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers import shop_rows, write_shop

from modeling_mmfusion.errors import DataError
from training import judge
from training.catalogue.layout import load_split
from training.common.errors import Problems
from training.evaluation import judging_llm
from training.evaluation.grades import read_grades
from training.evaluation.judging_llm import KEY, ModelJudge
from training.evaluation.pooling import Pool, PooledQuery
from training.judge import JudgeArguments


class StandIn:
    """A server that answers each request by `reply`, a function of its body that gives status, headers and text.

    Attributes:
        bodies (`list[dict]`): what was asked.
        keys (`list[str]`): the header `Authorization` of each request.
        most (`int`): how many requests were under way at a time.
    """

    def __init__(self):
        self.bodies, self.keys, self.paths, self.most, self.now = [], [], [], 0, 0
        self.reply, self.lock = by_words, threading.Lock()

    def answer(self, handler) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            self.bodies.append(body)
            self.keys.append(handler.headers.get("authorization"))
            self.paths.append(handler.path)
        status, headers, text = self.reply(body)
        with self.lock:
            self.now -= 1
        handler.send_response(status)
        for name, value in {"content-length": str(len(text.encode())), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text.encode())


def completion(content: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


def asked(body: dict) -> tuple[str, list[str]]:
    """The query and the products' titles of a request."""
    content = body["messages"][1]["content"]
    text = content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)
    query, *products = text.split("\n", 1)[0], *text.split("Product ")[1:]
    return json.loads(query.removeprefix("Query: ")), [
        json.loads(line.split(": ", 1)[1])["title"] for line in products
    ]


def by_words(body: dict) -> tuple[int, dict, str]:
    """3 where a product has the query's last word, else 0; the first product last."""
    query, titles = asked(body)
    grades = [
        {"product": number, "grade": 3 * (query.split()[-1] in title)} for number, title in enumerate(titles, start=1)
    ]
    return 200, {}, completion(f"Here you are:\n```json\n{json.dumps({'grades': grades[::-1]})}\n```")


@pytest.fixture
def server():
    """A [`StandIn`], with its address as `url`."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            stand_in.answer(self)

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        stand_in.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
        yield stand_in
        http.shutdown()


@pytest.fixture
def split(shop):
    return load_split(str(shop), "test")


def pool_of(split, queries=4) -> Pool:
    """The first queries, with all products of the tiny shop."""
    found = {product: {"bm25": rank} for rank, product in enumerate(split.product_ids, start=1)}
    return Pool(
        "shop", "test", 12, ["bm25"], [PooledQuery(q["_id"], q["text"], found) for q in split.queries[:queries]]
    )


def expected(pool) -> dict:
    return {query.id: {p: 3 * (query.text.split()[-1] == p.split("-")[0]) for p in query.found} for query in pool}


def test_grades_come_back_to_their_products(server, split, tmp_path, monkeypatch):
    """Some products at a time, several requests at a time; nothing in a request tells who found a product."""
    monkeypatch.setenv(KEY, "secret")
    pool = pool_of(split)
    answered = by_words
    gate = threading.Barrier(3, timeout=20)

    def together(body):
        gate.wait()
        return answered(body)

    server.reply = together
    found = ModelJudge(server.url, "judge", False, together=4, parallel=3).judge(pool, split, tmp_path / "a.jsonl")
    assert found == expected(pool) and server.most == 3 and len(server.bodies) == 12
    assert set(server.keys) == {"Bearer secret"} and set(server.paths) == {"/v1/chat/completions"}
    body = server.bodies[0]
    assert body["temperature"] == 0 and body["model"] == "judge" and "3 (exact)" in body["messages"][0]["content"]
    assert "bm25" not in json.dumps(server.bodies) and "mug-red" not in json.dumps(server.bodies)


def test_pictures_go_along_when_asked_for(server, tmp_path):
    corpus, queries, qrels = shop_rows()
    corpus[1]["image"], corpus[2]["image"] = None, {"bytes": b"no picture", "path": "broken.png"}
    split = load_split(write_shop(tmp_path / "shop", corpus, queries, qrels), "test")
    pool = pool_of(split, 1)
    assert ModelJudge(server.url, "judge", True, 4, 1).judge(pool, split, tmp_path / "a.jsonl") == expected(pool)
    kinds = [[part["type"] for part in body["messages"][1]["content"]] for body in server.bodies]
    assert kinds[0] == ["text", "text", "image_url", "text", "text", "text", "image_url"]
    pictures = [part["image_url"]["url"] for part in server.bodies[1]["messages"][1]["content"] if "image_url" in part]
    assert len(pictures) == 4 and all(picture.startswith("data:image/jpeg;base64,/9j/") for picture in pictures)
    assert split.problems.counts["unreadable image (judged without it)"] == 1


BAD = ["I can't tell.", '{"grades": []}', '{"grades": [{"product": 1, "grade": 4}]}', '{"grades": 3}', "[" * 100_000]
BAD += ['{"grades": [{"product": 1, "grade": true}]}', '{"grades": [{"product": 2, "grade": 1}]}', "{" * 5000 + "}"]
BAD += ['{"grades": [{"product": 1, "grade": 1}, {"product": 1, "grade": 2}]}']


@pytest.mark.parametrize("content", BAD)
def test_an_answer_that_holds_no_grade_is_named_and_asked_for_again(server, split, tmp_path, content):
    pool, file = pool_of(split, 1), tmp_path / "a.jsonl"
    server.reply = lambda body: (200, {}, completion(content)) if asked(body)[1] == ["plain lamp"] else by_words(body)
    model = ModelJudge(server.url, "judge", False, 1, 2)
    lamps = {"lamp-red", "lamp-green", "lamp-blue"}
    assert model.judge(pool, split, file)["q-mug-red"].keys() == set(split.product_ids) - lamps
    (line,) = split.problems.lines()
    assert line.startswith("3 x products without a grade: bad answer; first: query q-mug-red, products lamp-")
    server.reply, before = by_words, len(server.bodies)
    assert model.judge(pool, split, file) == expected(pool) and len(server.bodies) == before + 3


def test_an_answer_of_no_form_is_bad_too(server, split, tmp_path):
    for text in ("", "<html>", "{}", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}'):
        server.reply = lambda body, text=text: (200, {}, text)
        assert (
            ModelJudge(server.url, "judge", False, 12, 1).judge(pool_of(split, 1), split, tmp_path / "a.jsonl") == {}
        )
    assert split.problems.counts["products without a grade: bad answer"] == 60


def test_a_server_that_is_busy_is_asked_again(server, split, tmp_path, monkeypatch):
    waited, replies = (
        [],
        iter([(429, {"retry-after": "7"}, ""), (503, {}, "busy"), (503, {"retry-after": "9999"}, "")]),
    )
    monkeypatch.setattr(judging_llm.time, "sleep", waited.append)
    server.reply = lambda body: next(replies, None) or by_words(body)
    pool = pool_of(split, 1)
    found = ModelJudge(server.url, "judge", False, 12, 1).judge(pool, split, tmp_path / "a.jsonl")
    assert found == expected(pool) and waited == [7, 2, 60]


@pytest.mark.parametrize(
    "status, text, message",
    [
        (401, "no such key", "answers 401: no such key; a key is read from JUDGE_API_KEY"),
        (404, "no model x", "answers 404: no model x"),
        (302, "", "answers 302"),
        (500, "out of memory", "answers 500: out of memory; the same command goes on from here"),
    ],
)
def test_a_server_that_can_not_be_used_ends_it_and_what_was_said_is_kept(
    server, split, tmp_path, status, text, message
):
    pool, file = pool_of(split), tmp_path / "a.jsonl"
    count = iter(range(10**6))
    elsewhere = {"location": f"{server.url}/elsewhere"}
    server.reply = lambda body: by_words(body) if next(count) < 5 else (status, elsewhere, text)
    model = ModelJudge(server.url, "judge", False, 1, 1, pause=0)
    with pytest.raises(DataError, match=message) as caught:
        model.judge(pool, split, file)
    assert "\n" not in str(caught.value) and len(server.bodies) <= 5 + judging_llm.ATTEMPTS * 2
    assert sum(map(len, model.read(file, pool).values())) == 5 and set(server.paths) == {"/v1/chat/completions"}


def test_products_that_the_server_refuses_are_named(server, split, tmp_path):
    refused = (400, {}, "too long")
    server.reply = lambda body: refused if asked(body)[1] == ["plain bowl"] else by_words(body)
    found = ModelJudge(server.url, "judge", False, 1, 1).judge(pool_of(split, 1), split, tmp_path / "a.jsonl")
    assert len(found["q-mug-red"]) == 9 and len(server.bodies) == 12, "it is not asked again"
    (line,) = split.problems.lines()
    assert line.startswith("3 x products without a grade") and "the server answers 400: too long" in line


def test_what_was_asked_is_not_asked_again_but_for_another_model(server, split, tmp_path):
    pool, file = pool_of(split), tmp_path / "a.jsonl"
    ModelJudge(server.url, "judge", False, 1, 2).judge(pool, split, file)
    file.write_bytes(file.read_bytes()[:-10])  # the last line is cut off, as by a crash
    before = len(server.bodies)
    assert ModelJudge(server.url, "judge", False, 1, 2).judge(pool, split, file) == expected(pool)
    assert len(server.bodies) == before + 1 and len(file.read_text().splitlines()) == pool.pairs
    ModelJudge(server.url, "other", False, 1, 2).judge(pool, split, file)
    ModelJudge(server.url, "judge", True, 1, 2).judge(pool, split, file)
    assert len(server.bodies) == before + 1 + 2 * pool.pairs
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], '{"judge": "x"}', *lines[2:]]) + "\n")
    with pytest.raises(DataError, match="a.jsonl line 2: is damaged"):
        ModelJudge(server.url, "judge", False, 1, 2).judge(pool, split, file)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "nowhere", "ftp://x", "http://[::1"])
def test_an_address_that_is_none_is_one_line(split, tmp_path, endpoint):
    with pytest.raises(DataError, match="^--endpoint ") as caught:
        ModelJudge(endpoint, "judge", False, 1, 2, pause=0).judge(pool_of(split, 1), split, tmp_path / "a.jsonl")
    assert "\n" not in str(caught.value)


def test_the_command_writes_the_grades_of_a_model(server, shop, tmp_path, capsys):
    output = str(tmp_path / "judging")
    judge.main(JudgeArguments("pool", output, str(shop), systems=["bm25"], queries=3))
    report = judge.main(JudgeArguments("ask", output, endpoint=server.url, model="me/judge:7b", together=2))
    assert report == {"pairs": 9, "graded": 9} and len(server.bodies) == 6
    pool, _ = judge._pool(JudgeArguments("page", output))
    assert read_grades(tmp_path / "judging" / "grades-me-judge-7b.csv", pool, Problems()) == expected(pool)
    assert "9 of 9 pairs graded by me/judge:7b" in capsys.readouterr().out
