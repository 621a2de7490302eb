"""The connection to a server: its settings, its key, and what becomes of each way to fail."""

import json
import logging
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, Reply, Seen, chat
from hypothesis import given
from hypothesis import strategies as st
from wires import KEY, send, wire

from whet.config import load
from whet.engines.wire import Key, RefusedError, WireSettings, _trusted, is_loopback
from whet.errors import InputError, SettingsError


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://api.example.org/v1/", "https://api.example.org/v1"),
        ("https://example.org/openai/v3", "https://example.org/openai/v3"),
        ("http://[::1]:11434", "http://[::1]:11434/v1"),
    ],
)
def test_an_address_is_taken_as_people_write_it(url: str, wanted: str) -> None:
    assert WireSettings(url=url).url == wanted


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://a/v1",
        "file:///etc/passwd",
        "http://",
        "http:///v1",
        "http://a:99999/v1",
        "http://a b/v1",
        "http://a/v1\n",
        f"https://user:{KEY}@a/v1",
        f"https://{KEY}@a/v1",
        f"https://a/v1?key={KEY}",
        f"https://a/v1#{KEY}",
        "http://a/v1/chat/completions",
        "http://a/api/chat",
    ],
)
def test_what_is_no_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(SettingsError, match="url") as caught:
        load(WireSettings, {"url": url}, {("url",): repr(f"url={url}")}, "test")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", [KEY, "", "A B", "1A", "A-B", "$A"])
def test_a_key_where_its_name_belongs_is_refused_without_repeating_it(name: str) -> None:
    with pytest.raises(SettingsError, match="no name of an environment variable") as caught:
        load(WireSettings, {"url": "http://a", "api_key_env": name}, {("api_key_env",): repr(f"api_key_env={name}")}, "test")
    assert KEY not in str(caught.value)


def test_a_key_that_is_typed_as_a_setting_is_not_repeated() -> None:
    from whet.recipe import recipe_from

    raw = {
        "name": "a",
        "task": {"kind": "extraction", "fields": [{"name": "name"}]},
        "data": {"sources": [{"reader": "inline", "path": "a.txt", "tags": {"name": {"tag": "P"}}}]},
    }
    for typed in (f"engine.api_key={KEY}", f"engine.api_key_env={KEY}", f"engine.url=https://me:{KEY}@a/v1"):
        with pytest.raises(SettingsError) as caught:
            recipe_from(raw, ["engine.kind=http", "engine.url=http://a", typed], "test", Path())
        assert KEY not in str(caught.value)
        assert typed.partition("=")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://[::1]/v1", True),
        ("http://localhost/v1", True),
        ("http://127.0.0.1.example.org/v1", False),
        ("http://localhost.example.org/v1", False),
        ("http://10.0.0.1/v1", False),
        ("http://0.0.0.0/v1", False),
    ],
)
def test_only_this_machine_is_this_machine(url: str, is_own: bool) -> None:
    assert is_loopback(url) == is_own


def test_a_key_is_read_from_the_environment_and_travels_in_one_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", f" {KEY}\n")
    with FakeServer(lambda seen: chat("[]")) as server:
        to = wire(server.url, api_key_env="THE_KEY")
        send(to, "chat/completions")
    assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps([server.seen[0].body, {n: v for n, v in server.seen[0].headers.items() if n != "authorization"}])
    assert KEY not in repr(to.key) + repr(to.settings) + repr(vars(to)) + to.settings.model_dump_json()


def test_without_a_key_none_is_sent() -> None:
    with FakeServer(lambda seen: chat("[]")) as server:
        send(wire(server.url), "chat/completions")
    assert "authorization" not in server.seen[0].headers


@pytest.mark.parametrize(
    ("value", "words"), [(None, "has no THE_KEY"), ("  ", "has no THE_KEY"), ("a b", "no key"), ("schlüssel", "no key")]
)
def test_a_key_that_is_missing_or_none_is_named(value: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("THE_KEY", value)
    with pytest.raises(InputError, match=words):
        wire("http://127.0.0.1:1", api_key_env="THE_KEY")


def test_a_key_does_not_travel_in_the_clear_unless_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    with pytest.raises(InputError, match=r"read the key\. Use https"):
        wire("http://10.0.0.1:8000", api_key_env="THE_KEY")
    for url, more in (("https://10.0.0.1", {}), ("http://127.0.0.1:1", {}), ("http://10.0.0.1", {"is_key_sent_in_clear": True})):
        assert wire(url, api_key_env="THE_KEY", **more).key.headers()
    assert not wire("http://10.0.0.1:8000").key.headers()


ECHOES = [
    Reply({"error": {"message": f"Incorrect API key provided: {KEY}."}}, 401),
    Reply({"error": {"message": f"Incorrect API key provided: {KEY[:8]}****{KEY[-4:]}."}}, 401),
    Reply(f"<html>{KEY}</html>".encode(), 403),
    Reply({"detail": {"got": f"Bearer {KEY}"}}, 400),
    Reply({"error": KEY.replace("/", "\\/")}, 500),
    Reply(json.dumps({"x": KEY}).replace("/", "\\/").encode(), 400),
    Reply(b"x" * 250 + KEY.encode() * 3, 404),
    Reply(b"x" * 65_530 + KEY.encode(), 404),
    Reply(KEY.encode(), 200),
    Reply(chat(f"the key is {KEY}")),
    Reply(b"", 302, {"Location": f"http://127.0.0.1:1/{KEY}?k={KEY}"}),
    Reply(b"", 307, {"Location": f"http://{KEY[:6]}.example/"}),
]


@pytest.mark.parametrize("reply", ECHOES)
def test_a_key_that_a_server_repeats_is_not_repeated_by_us(
    reply: Reply, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    with FakeServer(lambda seen: reply) as server:
        to = wire(server.url, api_key_env="THE_KEY", retries=1)
        (error,) = send(to, "chat/completions")
    assert isinstance(error, RefusedError)
    chain = repr(error) + str(error) + repr(error.__cause__) + (repr(error.__context__) if not error.__suppress_context__ else "")
    assert KEY not in chain
    assert KEY[:8] not in chain
    # What the library logs of a reply's headers is the server's text; of ours it must say nothing.
    ours = [record.getMessage() for record in caplog.records if "receive_response_headers" not in record.getMessage()]
    assert not [line for line in ours if KEY in line]


@given(st.text("abc/+=", min_size=1, max_size=20), st.text("abc/+= \n", max_size=30), st.text("abc/+= ", max_size=30))
def test_a_text_that_is_hidden_holds_no_key(secret: str, before: str, after: str) -> None:
    hidden = Key(secret).hide(before + secret + after)
    assert secret not in hidden.replace("[key]", "\0") or secret in "[key]"


@pytest.mark.parametrize(
    ("status", "num_sent"),
    [(400, 1), (401, 1), (403, 1), (404, 1), (422, 1), (501, 1), (301, 1), (408, 3), (429, 3), (500, 3), (503, 3)],
)
def test_what_may_pass_is_tried_again_and_nothing_else(status: int, num_sent: int) -> None:
    with FakeServer(lambda seen: Reply({"error": {"message": "no\tnot\nnow"}}, status)) as server:
        to = wire(server.url, retries=2)
        (error,) = send(to, "chat/completions")
    assert len(server.seen) == num_sent
    assert (to.usage.requests, to.usage.retries) == (num_sent, num_sent - 1)
    assert isinstance(error, RefusedError)
    if status != 301:
        assert str(error) == f"status {status}: no not now" + (" (tried 3 times)" if num_sent > 1 else "")


def test_what_passes_is_answered_in_the_end() -> None:
    with FakeServer(lambda seen: chat("[]") if seen.number == 2 else Reply(b"", 503)) as server:
        to = wire(server.url)
        (reply,) = send(to, "chat/completions")
    assert reply["choices"]
    assert (to.usage.requests, to.usage.retries) == (3, 2)


def test_retry_after_is_waited_for_by_all() -> None:
    times: list[tuple[float, int]] = []

    def reply(seen: Seen) -> Any:
        times.append((time.monotonic(), seen.number))
        return Reply(b"", 429, {"Retry-After": "0.3"}) if seen.number == 0 else chat("[]")

    with FakeServer(reply) as server:
        to = wire(server.url, requests_per_minute=1200)  # one after the other, 50 ms apart
        send(to, "chat/completions", "chat/completions")
    # The second one was on its way; the first one waited.
    assert max(at for at, _ in times) - times[0][0] >= 0.3
    assert to.usage.waited_s >= 0.3


def test_a_wait_that_is_too_long_is_a_failure() -> None:
    with FakeServer(lambda seen: Reply({"error": "quota"}, 429, {"Retry-After": "3600"})) as server:
        (error,) = send(wire(server.url, max_wait_s=1), "chat/completions")
    assert "asks to wait 3600 s, engine.max_wait_s is 1" in str(error)
    assert len(server.seen) == 1


def test_broken_connections_are_tried_again() -> None:
    def reply(seen: Seen) -> Any:
        return Reply(chat("[]" * 100), num_sent=40) if seen.number < 2 else chat("[]")

    with FakeServer(reply) as server:
        to = wire(server.url)
        (said,) = send(to, "chat/completions")
    assert said["choices"]
    assert to.usage.retries == 2


def test_a_server_that_is_not_there_is_named() -> None:
    with FakeServer(lambda seen: chat("[]")) as server:
        url = server.url
    (error,) = send(wire(url, retries=1), "chat/completions")
    assert "127.0.0.1" in str(error)
    assert "tried 2 times" in str(error)


def test_slow_replies_end_at_the_timeout_even_if_they_trickle() -> None:
    with FakeServer(lambda seen: Reply(chat("[]"), delay_s=4.0)) as server:
        began = time.monotonic()
        (error,) = send(wire(server.url, timeout_s=0.1, retries=1), "chat/completions")
    assert "no reply within 0.1 s" in str(error)
    assert time.monotonic() - began < 3.0


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(b'{"choices": [', headers={"Content-Type": "application/json"}), "is no JSON (content type application/json): {"),
        (
            Reply(b"<html>welcome</html>", headers={"Content-Type": "text/html"}),
            "no JSON (content type text/html): <html>welcome",
        ),
        (Reply(b""), "is no JSON (content type application/json): (nothing)"),
        (Reply(b"[1, 2]"), "no JSON object: [1, 2]"),
        (Reply(b"\xff\xfe\x00x"), "is no JSON"),
        (Reply(b"[" * 200_000), "is no JSON"),
        (Reply({"error": {"message": "no such model", "code": 404}}), "the server says: no such model"),
        (Reply(b"x" * 3_000_000), "larger than engine.max_reply_mb=1"),
    ],
)
def test_a_reply_that_is_none_is_not_asked_for_again(reply: Reply, words: str) -> None:
    with FakeServer(lambda seen: reply) as server:
        (error,) = send(wire(server.url, max_reply_mb=1.0), "chat/completions")
    assert words in str(error)
    assert len(str(error)) < 500
    assert len(server.seen) == 1


def test_a_reply_that_unpacks_without_end_is_stopped() -> None:
    import gzip

    bomb = gzip.compress(b"x" * 50_000_000)
    with FakeServer(lambda seen: Reply(bomb, headers={"Content-Encoding": "gzip"})) as server:
        (error,) = send(wire(server.url, max_reply_mb=1.0), "chat/completions")
    assert "larger than engine.max_reply_mb=1" in str(error)


def test_a_gateway_that_says_200_to_everything_is_tried_again() -> None:
    with FakeServer(lambda seen: {"error": {"message": "busy", "code": 503}}) as server:
        (error,) = send(wire(server.url, retries=1), "chat/completions")
    assert "busy (tried 2 times)" in str(error)


def test_redirects_are_not_followed() -> None:
    with (
        FakeServer(lambda seen: chat("[]")) as other,
        FakeServer(lambda seen: Reply(b"", 307, {"Location": f"{other.url}/chat/completions?a=b"})) as server,
    ):
        (error,) = send(wire(server.url), "chat/completions")
    assert f"it redirects to {other.url}/chat/completions, which is not followed" in str(error)
    assert other.seen == []


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl here to make a certificate with")
    pem, args = tmp_path / "one.pem", ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    files = ["-keyout", str(pem), "-out", str(tmp_path / "certificate.pem"), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", *args, *files], check=True, capture_output=True)
    pem.write_text(pem.read_text() + (tmp_path / "certificate.pem").read_text())
    with FakeServer(lambda seen: chat("[]"), pem) as server:
        (error,) = send(wire(server.url), "chat/completions")
        assert "its certificate is not trusted" in str(error)
        assert server.seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        _trusted.cache_clear()
        try:
            (reply,) = send(wire(server.url), "chat/completions")
        finally:
            _trusted.cache_clear()
        assert reply["choices"]


def test_proxies_of_the_environment_are_not_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(lambda seen: Reply(b"proxy", 502)) as proxy, FakeServer(lambda seen: chat("[]")) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.root)
        monkeypatch.delenv("no_proxy", raising=False)
        (reply,) = send(wire(server.url), "chat/completions")
        assert reply["choices"]
        assert proxy.seen == []
        (error,) = send(wire("http://elsewhere.invalid/v1", retries=0), "chat/completions")
        assert "status 502" in str(error)
        assert proxy.paths() == ["http://elsewhere.invalid/v1/chat/completions"]


def test_a_proxy_that_can_not_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "nonsense://x")
    with pytest.raises(InputError, match="names a proxy that can't be used"):
        wire("https://elsewhere.invalid/v1")


def test_a_text_that_is_no_unicode_is_not_sent() -> None:
    with FakeServer(lambda seen: chat("[]")) as server:
        (error,) = send(wire(server.url), "chat/completions", body={"messages": "\ud800"})
    assert "lone surrogate" in str(error)
    assert server.seen == []
