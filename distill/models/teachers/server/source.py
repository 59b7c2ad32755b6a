"""A teacher behind a server, as a source of signals: what it gives is the most likely tokens of each position."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import torch
from torch import Tensor, nn

from distill.core.model_spec import ModelSpec
from distill.core.signals import Batch, Request, Signals
from distill.core.sparse_logits import SparseLogits
from distill.core.teacher import TeacherSource
from distill.core.utils.errors import TrainingError, UserError
from distill.models.teachers.documents import Document, documents
from distill.models.teachers.server.answers import (
    Absent,
    Answer,
    Reader,
    Refused,
    Vocabulary,
    echoed,
    judge,
    prompt_logprobs,
    same_tokens,
    unknown_tokens,
)
from distill.models.teachers.server.client import Client, Unanswered

__all__ = ["ServerTeacher"]

_KEY = "--from-server"
_FORMS: tuple[tuple[Reader, str], ...] = ((prompt_logprobs, "prompt_logprobs"), (echoed, "echo"))
_LEAST_TAIL = 1e-7
"""What is left of 1 in float32 is not known to more digits."""


class ServerTeacher(TeacherSource):
    """Asks a server for the log-probabilities of each document's tokens (POST ``/completions``).

    The first answer is judged at once: its form, how many log-probabilities it has, whose tokens they are.

    Args:
        client: To speak with it.
        model: As the server calls it; the one that it has, if not given.
        k: Log-probabilities of a position, of the most likely tokens; the label's comes besides.
        tokenizer: Of the data, which must be the server's.
        unigram: log u, ``[V]``, how the mass of all other tokens is spread.
        concurrency: Requests under way at once.

    Attributes:
        model: The model's name.
        longest: Tokens that it reads at most, where the server says so.
        first: The mean of -log p(label) over the first document that was asked for.

    Raises:
        UserError: if the server cannot be reached, or has no such model.
    """

    def __init__(
        self, client: Client, model: str | None, k: int, tokenizer: Any, unigram: Tensor, concurrency: int = 8
    ) -> None:
        self._client, self._k, self._tokenizer = client, k, tokenizer
        self._vocabulary, self._unigram = Vocabulary(tokenizer, len(unigram)), unigram.float()
        self._threads = ThreadPoolExecutor(concurrency)
        self.model, self.longest = _model(client, model)
        self._form: tuple[Reader, str] | None = None
        self.first = 0.0

    @property
    def models(self) -> list[nn.Module]:
        return []

    @property
    def tokenizers(self) -> list[Any]:
        return [self._tokenizer]

    @property
    def spec(self) -> ModelSpec:
        raise NotImplementedError("nothing is known of its layers")

    @property
    def fingerprint(self) -> str:
        """Of the model's name: more is not known of it."""
        return hashlib.sha256(f"server {self.model}".encode()).hexdigest()

    def signals(self, batch: Batch, request: Request) -> Signals:
        return self.evaluate(batch)

    def evaluate(self, batch: Batch) -> Signals:
        """:attr:`Signals.sparse_logits` of the positions that count.

        Raises:
            UserError: if the first answer cannot be used.
            TrainingError: if a later one cannot, or there is none.
        """
        asked = list(documents(batch))
        if self._form is None and asked:
            self._choose(asked[0])
        futures = [self._threads.submit(self._ask, document) for document in asked]
        try:
            rows = [row for future in futures for row in future.result()]
        except (Unanswered, Refused) as error:
            self.close()
            problem = f"the server {error}" if isinstance(error, Unanswered) else f"an answer of the server {error}"
            raise TrainingError(f"{problem}; what is recorded stays, and the same command goes on with it") from None
        except BaseException:
            self.close()
            raise
        return Signals(sparse_logits=_sparse(rows, self._unigram))

    def _ask(self, document: Document) -> list[Mapping[int, float]]:
        assert self._form is not None
        answer = self._answer(self._form, document)
        judge(answer, document.places, self._k, self._vocabulary.size)
        return [answer.rows[place] for place in document.places]

    def _answer(self, form: tuple[Reader, str], document: Document, **how: int) -> Answer:
        read, name = form
        body = {"model": self.model, "prompt": document.prompt, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
        more = {"echo": True, "logprobs": self._k} if name == "echo" else {"prompt_logprobs": self._k}
        found = self._client.post("/completions", body | more, **how)
        try:
            return read(found["choices"][0], document.prompt, self._vocabulary)
        except Refused:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise Refused(f"cannot be read ({type(error).__name__}: {error})") from None

    def _choose(self, document: Document) -> None:
        """Find the form in which the server answers, and judge what it answers.

        Raises:
            UserError: if it answers in none, or its answer cannot be used.
        """
        failed = list[str]()
        for form in _FORMS:
            try:
                answer = self._answer(form, document, tries=4)
                judge(answer, document.places, self._k, self._vocabulary.size)
            except Unanswered as error:
                failed.append(f"asked with {form[1]} it {error}")
                if not 400 <= error.status < 500:
                    break
                continue
            except Refused as error:
                failed.append(f"asked with {form[1]} its answer {error}")
                if not isinstance(error, Absent):
                    break
                continue
            if why := same_tokens(answer, document.prompt, self._vocabulary) or unknown_tokens(answer, document.places):
                raise self._unusable(f"the server {why}", "name the server's tokenizer: data.tokenizer")
            own = [answer.rows[place][document.prompt[place + 1]] for place in document.places]
            self._form, self.first = form, -sum(own) / len(own)
            return
        hint = (
            f"give a smaller --k, or start vLLM with --max-logprobs {self._k}; a server that gives no "
            "log-probabilities of a prompt's tokens cannot be recorded"
        )
        raise self._unusable(f"the server cannot be recorded: {'; '.join(failed)}", hint)

    def _unusable(self, problem: str, hint: str) -> UserError:
        self.close()
        return UserError(problem, key=_KEY, value=self._client.url, hint=hint)

    def close(self) -> None:
        """End what is under way."""
        self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def to(self, device: torch.device | str) -> Self:
        return self

    def state_dict(self, own: bool = False) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor], of_all: Mapping[str, Tensor] | None = None) -> None:
        """Nothing is remembered."""


def _model(client: Client, wanted: str | None) -> tuple[str, int | None]:
    """The name of the server's model, and how many tokens it reads, where that is said."""
    try:
        found = client.get("/models", tries=3)
        cards = {str(card["id"]): card.get("max_model_len") for card in found["data"]}
    except Unanswered as error:
        if error.status in (404, 405, 501) and wanted is not None:
            return wanted, None
        hint = "see that it runs; if it needs a key, name the environment variable that has it: --api-key-env NAME"
        raise UserError(f"the server {error}", key=_KEY, value=client.url, hint=hint) from None
    except (KeyError, TypeError, AttributeError):
        hint = "name the address that ends in /v1"
        raise UserError("does not list its models", key=_KEY, value=client.url, hint=hint) from None
    if wanted is None and len(cards) == 1:
        wanted = next(iter(cards))
    if wanted not in cards:
        problem = f"the server has {', '.join(cards) or 'no models'}"
        raise UserError(problem, key="--served-model", value=wanted, hint="name one of them")
    longest = cards[wanted]
    return wanted, longest if isinstance(longest, int) else None


def _sparse(rows: Sequence[Mapping[int, float]], unigram: Tensor) -> SparseLogits:
    """Log-probabilities of some tokens of each position; what is left of 1 is spread over the others by ``unigram``."""
    most = max(map(len, rows))
    padded = [[*row.items(), *[next(iter(row.items()))] * (most - len(row))] for row in rows]  # twice is once
    pairs = torch.tensor(padded, dtype=torch.float64)
    ids, values = pairs[..., 0].long(), pairs[..., 1]
    first = torch.arange(most) < torch.tensor([len(row) for row in rows])[:, None]
    tail = (1 - (values.exp() * first).sum(1)).clamp(min=_LEAST_TAIL)
    others = (1 - (unigram.double()[ids].exp() * first).sum(1)).clamp(min=1e-12)
    return SparseLogits(ids, values.float(), (tail / others).log().float(), unigram)
