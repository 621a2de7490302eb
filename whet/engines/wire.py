"""Sends JSON to one server: at a pace, again where it failed in passing, with a key that is told to nobody else."""

import asyncio
import datetime
import functools
import ipaddress
import json
import os
import random
import re
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from whet.config import HIDDEN, Settings
from whet.engines.limits import Pace
from whet.engines.retries import asked_wait, backoff, is_passing
from whet.errors import InputError

MAX_ERROR_BYTES = 65_536  # of an error's body
MAX_WORDS = 300  # characters of it that are shown


class WireSettings(Settings):
    """Where a server is, and how it is treated."""

    url: str
    """Where its OpenAI-compatible part begins, such as http://localhost:8000/v1; without a path, /v1 is meant."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself stands in no recipe, log or run folder. Null sends
    none."""
    is_key_sent_in_clear: bool = False
    """Send the key over http:// to another machine, for all on the way to read. Better: https, or a tunnel."""
    concurrency: int = Field(default=8, ge=1, le=512)
    """Most requests in flight."""
    timeout_s: float = Field(default=300.0, gt=0)
    """Most seconds from a request's start to the end of its reply."""
    retries: int = Field(default=5, ge=0)
    """How often a request is sent again where the connection failed, or the server said 408, 425, 429 or 5xx."""
    backoff_s: float = Field(default=1.0, ge=0)
    """Bound of the random wait before the first retry; it doubles each time, up to a minute. A Retry-After comes on top."""
    max_wait_s: float = Field(default=300.0, ge=0)
    """Longest Retry-After that is waited for; a request that is told to wait longer fails."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Most requests a minute, evenly spread; null sets no limit."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Most tokens a minute, prompt and reply together, counted as the server counts them; null sets no limit."""
    prompt_price: float = Field(default=0.0, ge=0)
    """Price of a million prompt tokens, in any currency."""
    completion_price: float = Field(default=0.0, ge=0)
    """Price of a million tokens of replies."""
    max_cost: float | None = Field(default=None, gt=0)
    """Nothing is sent any more once this much is spent; what is in flight is paid for still. Null sets no limit."""
    max_reply_mb: float = Field(default=16.0, gt=0)
    """Largest reply that is read, in MiB."""

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        try:
            parts = urllib.parse.urlsplit(url)
            has_place = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            has_place = False
        # Its text is not repeated in the message: a key may stand in it.
        if not has_place or parts.scheme not in ("http", "https") or re.search(r"[\s\\\x00-\x20\x7f]", url):
            raise PydanticCustomError(HIDDEN, "is no http:// or https:// address")
        if "@" in url or parts.query or parts.fragment:
            raise PydanticCustomError(HIDDEN, "must hold no user, password, query or fragment; a key is named by api_key_env")
        if parts.path.rstrip("/").endswith(("/completions", "/models", "/api/chat", "/api/generate")):
            raise PydanticCustomError(HIDDEN, "names one route; give the address before it, such as http://localhost:8000/v1")
        return url.rstrip("/") if parts.path.rstrip("/") else f"{parts.scheme}://{parts.netloc}/v1"

    @field_validator("api_key_env")
    @classmethod
    def _is_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise PydanticCustomError(HIDDEN, "is no name of an environment variable; the key itself does not belong here")
        return name


@dataclass
class Usage:
    """What a server was asked for, and what it costs."""

    requests: int = 0
    """Sent, retries included."""
    retries: int = 0
    failed: int = 0
    """What was asked for and not answered, retries notwithstanding."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    """Replies whose tokens the server did not count: they are missing from the tokens and from the cost."""
    cost: float = 0.0
    waited_s: float = 0.0
    """Seconds that requests waited for limits, Retry-After and retries, summed over all of them."""

    def say(self) -> str:
        """The same in a line."""
        parts = [f"{self.requests} requests", f"{self.retries} of them again"] if self.retries else [f"{self.requests} requests"]
        parts.append(f"{self.prompt_tokens} + {self.completion_tokens} tokens")
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.uncounted} replies without counts"] if self.uncounted else []
        parts += [f"cost {self.cost:.4g}"] if self.cost else []
        parts += [f"{self.waited_s:.0f} s waited"] if self.waited_s >= 1 else []
        return ", ".join(parts)


class RefusedError(Exception):
    """A server gave no answer, and asking again brings none. The words hold no key. status: of HTTP, or 0."""

    def __init__(self, words: str, status: int = 0) -> None:
        self.status = status
        super().__init__(words)


class _PassingError(Exception):
    """It may go better later."""

    def __init__(self, words: str, wait_s: float | None = None) -> None:
        self.wait_s = wait_s
        super().__init__(words)


class Key:
    """An API key that shows itself in one header only."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "[key]"

    def headers(self) -> dict[str, str]:
        """The header that carries it."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def hide(self, text: str) -> str:
        """A text without the key, and without what begins like it: servers repeat a wrong key half masked."""
        if not self._key:
            return text
        text = text.replace(self._key, "[key]")
        return re.sub(re.escape(self._key[:6]) + r"[^\s\"']*", "[key]", text) if len(self._key) >= 8 else text

    def is_in(self, text: str) -> bool:
        """Whether a text holds the key; one of a few characters, as local servers take, stands anywhere."""
        return len(self._key) >= 8 and self._key in text


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def read_key(settings: WireSettings) -> Key:
    """The key out of the environment; refused where it is missing, or would travel in the clear."""
    if settings.api_key_env is None:
        return Key("")
    key = os.environ.get(settings.api_key_env, "").strip()
    place = "engine.api_key_env"
    if not key:
        raise InputError(place, f"the environment has no {settings.api_key_env}", f"Set it: export {settings.api_key_env}=...")
    if not re.fullmatch(r"[!-~]+", key):
        raise InputError(place, f"what {settings.api_key_env} holds is no key (it has spaces or other than ASCII characters)")
    if settings.url.startswith("http://") and not is_loopback(settings.url) and not settings.is_key_sent_in_clear:
        raise InputError(
            "engine.url",
            "is http:// to another machine, so everybody on the way could read the key",
            "Use https://, or set engine.is_key_sent_in_clear=true",
        )
    return Key(key)


@functools.cache
def _trusted() -> Any:
    """The certificates that are trusted, read once: the system's, or those that SSL_CERT_FILE names."""
    import httpx2

    return httpx2.create_ssl_context()


class Wire:
    """The connection to one server. Its coroutines run in one loop; `usage` may be read from anywhere."""

    def __init__(self, settings: WireSettings, draw: random.Random | None = None) -> None:
        self.settings, self.key, self.usage = settings, read_key(settings), Usage()
        self.base = settings.url
        self.root = re.sub(r"/v\d+$", "", settings.url)
        self._draw = draw or random.Random()
        self._requests, self._tokens = Pace(settings.requests_per_minute), Pace(settings.tokens_per_minute)
        self._hold_until = 0.0
        self._num_lost = 0  # requests in a row that used up their retries
        self._client = self._open()

    def _open(self) -> Any:
        import httpx2

        num = self.settings.concurrency
        try:
            return httpx2.AsyncClient(
                headers={"User-Agent": "whet", "Accept": "application/json", "Content-Type": "application/json"}
                | self.key.headers(),
                follow_redirects=False,  # a redirect could lead anywhere, with the texts and the key
                verify=_trusted(),
                timeout=None,  # one limit for the whole exchange stands around it
                limits=httpx2.Limits(max_connections=num, max_keepalive_connections=num),
                # Proxies of the environment are for other machines only: nothing that is sent to this one may leave it.
                trust_env=not is_loopback(self.settings.url),
            )
        except (httpx2.InvalidURL, ValueError, ImportError) as error:  # a proxy's address, or a proxy of a kind that is missing
            raise InputError("the environment", f"names a proxy that can't be used ({self.key.hide(str(error))})") from None

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def send(self, path: str, body: Mapping[str, Any] | None = None, num_tokens: int = 0) -> dict[str, Any]:
        """The JSON object that the server answers, to a POST of `body` or a GET. RefusedError where it answers none.

        path: below the root where it begins with a slash, else below the OpenAI-compatible part. num_tokens: how many tokens
        the request may take, for the limit; `count` corrects it.
        """
        try:
            content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RefusedError("the text holds a lone surrogate, which is no character") from None
        url = self.root + path if path.startswith("/") else f"{self.base}/{path}"
        num_failures = 0
        while True:
            if self.settings.max_cost is not None and self.usage.cost >= self.settings.max_cost:
                raise RefusedError(f"not sent: {self.usage.cost:.4g} is spent, engine.max_cost is {self.settings.max_cost:g}")
            await self._wait_turn(num_tokens)
            self.usage.requests += 1
            self.usage.retries += bool(num_failures)
            try:
                reply = await self._exchange(url, content)
            except _PassingError as error:
                num_failures += 1
                await self._wait_again(error, num_failures)
            else:
                self._num_lost = 0
                return reply

    def count(self, counts: tuple[int, int] | None, num_tokens: int) -> None:
        """Count a reply's prompt and completion tokens; num_tokens: what was said of them to `send`."""
        if counts is None:
            self.usage.uncounted += 1
            return
        prompt, completion = counts
        self._tokens.correct(prompt + completion - num_tokens)
        self.usage.prompt_tokens += prompt
        self.usage.completion_tokens += completion
        self.usage.cost += (prompt * self.settings.prompt_price + completion * self.settings.completion_price) / 1e6

    async def _wait_turn(self, num_tokens: int) -> None:
        now = time.monotonic()
        start = max(self._requests.soonest(now), self._tokens.soonest(now), self._hold_until)
        self._requests.take(start, 1)
        self._tokens.take(start, num_tokens)
        await self._sleep(start - now)
        while (left := self._hold_until - time.monotonic()) > 0:  # told to another request meanwhile
            await self._sleep(left)

    async def _wait_again(self, error: _PassingError, num_failures: int) -> None:
        """Wait until a request may be sent again; RefusedError where it is given up."""
        words = str(error)
        # A server that is gone is not asked for every text of a corpus as often as for the first ones.
        is_gone = self._num_lost >= 2 * self.settings.concurrency
        if num_failures > self.settings.retries or is_gone:
            self._num_lost += 1
            raise RefusedError(f"{words} (tried {num_failures} times)" if num_failures > 1 else words)
        asked = error.wait_s or 0.0
        if asked > self.settings.max_wait_s:
            raise RefusedError(f"{words}; it asks to wait {asked:.0f} s, engine.max_wait_s is {self.settings.max_wait_s:g}")
        self._hold_until = max(self._hold_until, time.monotonic() + asked)
        await self._sleep(asked + backoff(num_failures, self.settings.backoff_s, self._draw))

    async def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.usage.waited_s += seconds
            await asyncio.sleep(seconds)

    async def _exchange(self, url: str, content: bytes | None) -> dict[str, Any]:
        """One request and its reply."""
        import httpx2

        try:
            async with (
                asyncio.timeout(self.settings.timeout_s),
                self._client.stream("GET" if content is None else "POST", url, content=content) as response,
            ):
                if response.status_code // 100 == 2:
                    return self._read(await self._body(response), response.headers.get("content-type", "none"))
                raise await self._failure(response)
        except TimeoutError:
            raise _PassingError(f"no reply within {self.settings.timeout_s:g} s") from None
        except (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError, httpx2.ProxyError) as error:
            words = f"{self.key.hide(str(error)) or type(error).__name__} ({urllib.parse.urlsplit(url).netloc})"
            if "CERTIFICATE_VERIFY_FAILED" in words:
                raise RefusedError(f"its certificate is not trusted: {words}") from None
            raise _PassingError(words) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RefusedError(self.key.hide(str(error)) or type(error).__name__) from None

    async def _body(self, response: Any) -> bytes:
        most, pieces, num = int(self.settings.max_reply_mb * 2**20), [], 0
        async for piece in response.aiter_bytes():
            num += len(piece)
            if num > most:
                raise RefusedError(f"the reply is larger than engine.max_reply_mb={self.settings.max_reply_mb:g}")
            pieces.append(piece)
        return b"".join(pieces)

    def _read(self, raw: bytes, content_type: str) -> dict[str, Any]:
        try:
            reply = json.loads(raw)
        except (ValueError, RecursionError):
            raise RefusedError(f"the reply is no JSON (content type {content_type[:60]}): {self._words(raw)}") from None
        if not isinstance(reply, dict):
            raise RefusedError(f"the reply is no JSON object: {self._words(raw)}")
        if self.key.is_in(raw.decode("utf-8", "replace")):
            raise RefusedError("the reply holds the API key, so it was not kept")
        error = reply.get("error")
        if error and not reply.keys() & {"choices", "message", "data"}:  # some gateways say 200 to everything
            code = error.get("code") if isinstance(error, dict) else None
            words = f"the server says: {self._words(raw)}"
            raise _PassingError(words) if isinstance(code, int) and is_passing(code) else RefusedError(words)
        return reply

    async def _failure(self, response: Any) -> Exception:
        """What an answer that is no success means."""
        raw, status = b"", int(response.status_code)
        async for piece in response.aiter_bytes():
            raw += piece
            if len(raw) >= MAX_ERROR_BYTES:
                break
        if 300 <= status < 400:
            where = re.sub(r"[?#].*", "", response.headers.get("location", "nowhere"), flags=re.DOTALL)
            return RefusedError(f"status {status}: it redirects to {self._clean(where)}, which is not followed", status)
        words = f"status {status}: {self._words(raw[:MAX_ERROR_BYTES])}"
        if is_passing(status):
            return _PassingError(words, asked_wait(response.headers.get("retry-after"), datetime.datetime.now(datetime.UTC)))
        return RefusedError(words, status)

    def _words(self, raw: bytes) -> str:
        """What an error says: its message where it is JSON of a known shape, else its text; in one short line, no key in it."""
        text = raw.decode("utf-8", "replace")
        try:
            found: Any = json.loads(text)
            for name in ("error", "message"):
                found = found[name] if isinstance(found, dict) and name in found else found
            text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
        return self._clean(text) or "(nothing)"

    def _clean(self, text: str) -> str:
        text = self.key.hide(text)  # before it is cut: half a key would not be known again
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text[:MAX_WORDS] + ("…" if len(text) > MAX_WORDS else "")
