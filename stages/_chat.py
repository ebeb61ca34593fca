"""Asking a chat service: many requests at a time, each until it is answered, refused or given up.

Rate limits and failing servers are waited for, longer each time, and a `Retry-After` holds every thread back. What
only fails for one request (a content filter) is refused and recorded; what would fail for all of them (key, model,
quota) stops the run with a message. Nothing is asked that the ledger has an answer to.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llavaflow.infra.errors import InputError, StageFailed
from llavaflow.stages._ledger import Reply, Request, RequestLedger

TIMEOUT_S = 300.0
MAX_ATTEMPTS = 8
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
# a key that means nothing, for local servers that want none
NO_KEY = "none"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where the service is (None is the client's own default address), and where its key came from."""

    base_url: str | None
    api_key: str
    key_name: str = "OPENAI_API_KEY"

    def client(self) -> Any:
        from openai import OpenAI

        # our own retries know the ledger; the client's would hide attempts from it
        return OpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=TIMEOUT_S)


def service_of_environment(model: str, local: str) -> tuple[Endpoint, str]:
    """The service that OPENAI_BASE_URL and OPENAI_API_KEY name, and what to call it. `local` needs neither.

    Raises InputError when neither is set.
    """
    base_url, key = os.environ.get("OPENAI_BASE_URL") or None, os.environ.get("OPENAI_API_KEY")
    if base_url is None and not key:
        raise InputError(
            f"no service to ask for {model}: OPENAI_BASE_URL and OPENAI_API_KEY are not set. Set the key, or the "
            f"address of another OpenAI-compatible service, or take the model {local}, which answers here and by rule."
        )
    host = urlsplit(base_url).hostname if base_url else "api.openai.com"
    return Endpoint(base_url=base_url, api_key=key or NO_KEY), f"{model} at {host}"


class Chat:
    """A chat service with a ledger.

    skip_failing: a request that the service keeps breaking on (status 5xx) is left open instead of ending the run.
    """

    def __init__(
        self, endpoint: Endpoint, ledger: RequestLedger, *, skip_failing: bool = False, attempts: int | None = None
    ) -> None:
        self.client = endpoint.client()
        self.endpoint = endpoint
        self.ledger = ledger
        self.attempts = attempts or MAX_ATTEMPTS
        self.skip_failing = skip_failing
        self._stop = threading.Event()
        self._resume_at = 0.0

    def ask_all(self, requests: Sequence[Request], concurrency: int, done: Callable[[], None]) -> None:
        """Settle every request. Raises BudgetExceeded or StageFailed after those in flight have come home."""
        self._stop.clear()
        waiting = iter({request.id: request for request in requests if not self.ledger.settled(request)}.values())
        lock = threading.Lock()

        def work() -> None:
            while not self._stop.is_set():
                with lock:
                    request = next(waiting, None)
                if request is None:
                    return
                self._settle(request)
                done()

        with ThreadPoolExecutor(concurrency, thread_name_prefix="chat") as pool:
            threads = [pool.submit(work) for _ in range(concurrency)]
            try:
                wait(threads, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
        _raise_first(threads)

    def _settle(self, request: Request) -> None:
        import openai

        self.ledger.reserve(request)
        try:
            for attempt in range(self.attempts):
                self._hold()
                self.ledger.sent(request)
                try:
                    self.ledger.answered(request.id, self._ask(request))
                    return
                except openai.APIError as error:
                    if not self._may_retry(request, error, attempt):
                        return
                    last = error
            if self.skip_failing and isinstance(last, openai.InternalServerError):
                return
            raise StageFailed(
                f"gave up on one request to {self.client.base_url} after {self.attempts} attempts (the last: "
                f"{_message(last)}) What was answered is kept. Run again later."
            )
        finally:
            self.ledger.release(request.id)

    def _ask(self, request: Request) -> Reply:
        completion = self.client.chat.completions.create(**request.body, extra_headers={"Idempotency-Key": request.id})
        return reply_of(completion.to_dict())

    def _may_retry(self, request: Request, error: Any, attempt: int) -> bool:
        """Wait and return True; or record a refusal and return False; or raise what stops the run."""
        import openai

        code = str(getattr(error, "code", None) or "")
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)):
            raise StageFailed(
                f"the service at {self.client.base_url} refused the key or does not know the model "
                f"{request.body['model']}: {_message(error)} Check {self.endpoint.key_name}, the address and the model."
            ) from error
        if code == "insufficient_quota":
            raise StageFailed(f"the account has no quota left: {_message(error)} What was answered is kept.") from error
        if isinstance(error, (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError)):
            self._wait(error, attempt)
            return not self._stop.is_set()
        if isinstance(error, openai.APIStatusError):
            self.ledger.refuse(request.id, _message(error))
            return False
        self._wait(error, attempt)
        return True

    def _wait(self, error: Any, attempt: int) -> None:
        """Set the time before which no thread asks again."""
        response = getattr(error, "response", None)
        asked = response.headers.get("retry-after", "") if response is not None else ""
        grown = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt) * random.uniform(0.5, 1.5)
        pause = float(asked) if asked.replace(".", "", 1).isdigit() else grown
        self._resume_at = max(self._resume_at, time.monotonic() + pause)

    def _hold(self) -> None:
        while not self._stop.is_set() and (left := self._resume_at - time.monotonic()) > 0:
            self._stop.wait(left)


def reply_of(completion: dict[str, Any]) -> Reply:
    """The reply in a chat completion, from the wire or from the file of a batch."""
    choice, usage = completion["choices"][0], completion.get("usage") or {}
    return Reply(
        text=choice["message"].get("content") or "",
        model=completion.get("model") or "",
        finish=choice.get("finish_reason") or "stop",
        input_tokens=usage.get("prompt_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or 0,
    )


def _message(error: Any) -> str:
    text = str(getattr(error, "message", error)).strip()
    return text if text.endswith(".") else f"{text}."


def _raise_first(futures: Iterable[Future[None]]) -> None:
    errors = [error for future in futures if (error := future.exception())]
    for error in errors:
        # a failure that needs the user comes before a budget that only ended the run early
        if isinstance(error, StageFailed):
            raise error
    for error in errors:
        raise error
