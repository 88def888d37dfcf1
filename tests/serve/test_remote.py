"""`opentar chat --server`: the talk of the terminal with a model of a real server."""

import contextlib
import http.server
import io
import os
import signal
import socket
import sys
import threading
import time

import pytest
from PIL import Image

from opentar.commands.remote import Remote, ServerError
from opentar.core.errors import ConfigError

PROMPT = "three red apples"


@pytest.fixture
def talk(monkeypatch, tmp_path, capfd):
    """Run the command with lines on stdin: returns (exit code, stdout, stderr)."""
    from opentar.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENTAR_API_KEY", raising=False)

    def call(lines, *arguments):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode() + b"\n")))
        capfd.readouterr()
        code = main(["chat", *map(str, arguments)])
        told = capfd.readouterr()
        return code, told.out, told.err

    return call


@pytest.fixture
def file(tmp_path, png):
    path = tmp_path / "given.png"
    path.write_bytes(png)
    return path


@contextlib.contextmanager
def answering(status, body, kind="application/json"):
    """A server that is none of ours: it answers everything with the same."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def shown(png, as_url, question):
    content = [{"type": "image_url", "image_url": {"url": as_url(png)}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module")
def nano(serving):
    """A server of a model that answers: the tiny one has nothing to say."""
    with serving({"nano": "nano"}) as found:
        yield found
        assert found.idle()


def test_it_answers_as_the_server_does(nano, talk, file, png, as_url):
    questions = ("What color is it?", "Is there a dog?")
    asked = [nano.client.chat.completions.create(model="nano", messages=shown(png, as_url, one)) for one in questions]
    expected = [one.choices[0].message.content for one in asked]
    assert all(expected) and expected[0] != expected[1]
    code, out, err = talk([questions[0], "", f"/open {file}", questions[1]], file, "--server", nano.url)
    assert (code, err) == (0, "")
    assert out.splitlines() == [expected[0], f"{file}: 40 x 30", expected[1]]


def test_two_pictures_are_shown_together(nano):
    from opentar import Tar

    remote, tar = Remote(f"{nano.url}/v1/"), Tar.from_pretrained("nano")
    pictures = [tar.generate(prompt, seed=1)[0] for prompt in ("a purple car", "three red apples")]
    question = "What is in the picture?"
    shown = (pictures, pictures[:1], pictures[1:])
    told = [remote.ask(some, question) for some in shown]
    assert told == [tar.ask(some, question) for some in shown]
    assert len(set(told)) == 3
    assert remote.ask(pictures[:1], "What color is the car?") == "purple"
    remote.close()


def test_what_it_draws_is_the_picture_of_the_seed(live, talk, tmp_path, tiny_model):
    from opentar.cli import main

    lines = [f"/draw {PROMPT}", "red?", "/seed 7", f"/draw {PROMPT}", f"/draw {PROMPT}"]
    hits = live.service.known.hits
    code, out, _ = talk(lines, "--server", live.url, "--seed", 3)
    assert code == 0
    names = [line for line in out.splitlines() if line.endswith(".png")]
    assert names == ["opentar.png", "opentar-2.png", "opentar-3.png"]
    assert live.service.known.hits == hits + 1, "what was drawn is known by its bytes"
    for name, seed in zip(names, (3, 7, 8), strict=True):
        main(["generate", PROMPT, "--seed", str(seed), "-o", "alone.png", "--overwrite", "--model", str(tiny_model)])
        here, there = Image.open(tmp_path / "alone.png"), Image.open(tmp_path / name)
        assert here.tobytes() == there.tobytes()
        assert there.info["prompt"] == PROMPT and there.info["seed"] == str(seed)


def test_words_that_are_left_out_are_told(nano, talk):
    code, _, err = talk(["/draw a purple zeppelin car", "/draw A purple car"], "--server", nano.url)
    assert code == 0
    assert [line for line in err.splitlines() if "warning" in line] == ["warning: the server drew 'a purple car'"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupt_ends_the_drawing_on_the_server_and_not_the_talk(live, talk, file, slowly):
    slowly(0.2)
    main_thread = threading.get_ident()

    def interrupt() -> None:
        while not live.service.active:
            time.sleep(0.01)
        signal.pthread_kill(main_thread, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt, daemon=True)
    interrupter.start()
    code, out, err = talk([f"/draw {PROMPT}", "/seed x", f"/open {file}"], "--server", live.url)
    interrupter.join(10)
    assert code == 0 and not out.count("opentar.png")
    notes = err.splitlines()
    assert notes[0].startswith("interrupted") and "'x' is not a whole number" in notes[1]
    assert f"{file}: 40 x 30" in out
    assert live.idle()


def test_an_error_of_the_server_ends_nothing(live, talk, file):
    code, out, err = talk(["/draw ?!", "red?", "/help"], file, "--server", live.url, "-m", "tiny")
    assert code == 0
    assert err.startswith("error: the server refused it: ") and "no word" in err
    assert len(err.splitlines()) == 1
    assert "/quit" in out and len(out.splitlines()) > 5


def test_an_unknown_model_is_told_with_those_there_are(live, talk):
    code, out, err = talk([], "--server", live.url, "--model", "tinny")
    assert (code, out) == (2, "")
    assert "has no model 'tinny'; the server has 'tiny'. Did you mean 'tiny'?" in err


def test_the_key(serving, talk, file, monkeypatch):
    with serving(keys=("sesame",)) as live:
        code, _, err = talk([], "--server", live.url)
        assert code == 2 and "wants a key and was not given one; set OPENTAR_API_KEY" in err
        code, _, err = talk([], "--server", live.url, "--api-key", "wrong")
        assert code == 2 and "does not take the one it was given" in err and "wrong" not in err
        assert talk(["red?"], file, "--server", live.url, "--api-key", "sesame")[::2] == (0, "")
        monkeypatch.setenv("OPENTAR_API_KEY", "sesame")
        assert talk(["red?"], file, "--server", live.url)[::2] == (0, "")


def test_no_server_there(talk):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code, out, err = talk([], "--server", url)
    assert (code, out) == (2, "")
    assert f"no server answers at {url} (" in err and err.rstrip().endswith("opentar serve")
    assert len(err.splitlines()) == 1


def test_a_server_that_goes_away_is_told_in_one_line(serving, png):
    with serving() as live:
        remote = Remote(live.url)
    with pytest.raises(ServerError, match="no server answers at"):
        remote.ask([Image.open(io.BytesIO(png))], "red?")


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>", "no JSON"),
        (404, b'{"detail": "Not Found"}', "status 404"),
        (200, b"[]", "no JSON object"),
        (200, b'{"object": "list"}', "lists no models"),
        (200, b'{"data": []}', "has no models"),
        (302, b"", "status 302"),
        (200, b"\xff\xfe\x00", "no JSON"),
    ],
)
def test_something_else_answers(status, body, told):
    with answering(status, body) as url, pytest.raises(ServerError, match="is no server of OpenTar") as caught:
        Remote(url)
    assert told in str(caught.value)


def test_an_answer_without_what_was_asked():
    with answering(200, b'{"data": [{"id": "one"}], "choices": [{"message": {"content": null}}]}') as url:
        remote = Remote(url)
        with pytest.raises(ServerError, match="has no picture"):
            remote.generate(PROMPT)
        with pytest.raises(ServerError, match="has no text"):
            remote.ask([], "red?")
        remote.close()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:8000", "ftp://host", "http://", "http://host:99999", "http://[", "", "http://a b", "http://ä"],
)
def test_an_address_that_is_none(address):
    with pytest.raises(ConfigError, match="give an address such as http://127"):
        Remote(address)


def test_a_secret_in_the_address_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        Remote("http://me:secret@host")
    assert "secret" not in str(caught.value) and "--api-key" in str(caught.value)


@pytest.mark.parametrize("key", ["", " ", "schlüssel", "two\nlines"])
def test_a_key_that_cannot_be_sent(key):
    with pytest.raises(ConfigError, match="API key"):
        Remote("http://127.0.0.1:1", key)


@pytest.mark.parametrize("option", ["--device", "--dtype", "--engine"])
def test_options_of_the_other_side_are_refused(talk, option):
    value = {"--device": "cpu", "--dtype": "float32", "--engine": "torch"}[option]
    code, _, err = talk([], "--server", "http://127.0.0.1:1", option, value)
    assert code == 2 and f"{option} is chosen where the server is started" in err


def test_a_key_without_a_server_is_refused(talk):
    code, _, err = talk([], "--api-key", "sesame")
    assert code == 2 and "name it with --server" in err


def test_a_large_picture_is_sent_smaller(live, png, monkeypatch):
    pictures = [Image.open(io.BytesIO(png))]
    sent = []
    remote = Remote(live.url, model="tiny")
    remote._http.event_hooks["request"].append(lambda request: sent.append(request.content))
    for most, kind in ((len(png) * 10, b"png"), (10, b"jpeg")):
        monkeypatch.setattr("opentar.commands.remote._MOST_PNG_BYTES", most)
        remote.ask(list(pictures), "red?")
        assert b"data:image/" + kind in sent[-1]
    remote.close()
