"""W&B's service process: how a run is started in it, how long it is waited for, what it says of trouble."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distill.core.utils.secrets import scrub

__all__ = ["FINISH_SECONDS", "INIT_SECONDS", "Troubles", "begin", "end_service", "finish", "sync_command"]

INIT_SECONDS = 20.0
"""How long W&B may try to start online."""

FLUSH_SECONDS = 1.0
"""Of the rows, so much dies with W&B's service process."""

FINISH_SECONDS = 60.0
"""How long a run that has ended waits for W&B to send what it has; the rest stays on the disk for ``wandb sync``."""


class Troubles:
    """Takes what W&B would print of a run that has begun, to report it once, with what to do about it."""

    def __init__(self) -> None:
        self._reasons: list[str] = []
        self._told = False

    def info(self, msg: str) -> None:
        """Nothing."""

    def warning(self, msg: str) -> None:
        """Keep what ``msg`` says, as a warning or an error of W&B's, or as an exception's text."""
        # Its first sentence: the next ones advise a `wandb sync` that passes over online runs.
        reason = re.sub(r"^wandb: (WARNING |ERROR )?", "", msg.partition("\n")[0]).split(". ")[0].rstrip(".")
        if reason not in self._reasons:
            self._reasons.append(reason)

    error = warning

    def report(self, folder: Path) -> None:
        """Warn of what there is, unless that was done; ``folder`` holds the files of the W&B run."""
        if self._reasons and not self._told:
            self._told = True
            reasons = scrub("; ".join(self._reasons))
            rest = f"The rest is on the disk; to send it when the run has ended: {sync_command(folder)}"
            warnings.warn(f"W&B may not have got all ({reasons}). {rest}", stacklevel=2)


def sync_command(folder: Path) -> str:
    """What sends the W&B runs in ``folder``: without the option those that were online are left out."""
    return f"wandb sync --include-online {shlex.quote(str(folder))}"


def begin(troubles: Troubles, **arguments: Any) -> Any:
    """``wandb.init``. What goes wrong in it W&B prints itself: it may be the user's to correct.

    Args:
        troubles: Takes what W&B says from then on, until :func:`finish` has seen the end.
        arguments: Of ``wandb.init``.
    """
    import wandb

    _print_all()
    with _unreported():
        experiment = wandb.init(**arguments, settings=_settings())
    wandb.termsetup(wandb.Settings(silent=True), troubles)
    return experiment


def finish(experiment: Any, troubles: Troubles, code: int = 0) -> None:
    """End a run, and wait :data:`FINISH_SECONDS` at most. What goes wrong is added to ``troubles``."""
    try:
        _within(FINISH_SECONDS, lambda: experiment.finish(exit_code=code))
    except Exception as error:  # whatever a server or a dead service comes up with
        troubles.warning(str(error) or repr(error))
    else:
        _print_all()


def end_service() -> None:
    """End the service process, which may be dead already: only a new one can begin another run."""
    import wandb

    for _ in range(2):  # the first only tells that it is dead
        with contextlib.suppress(Exception):
            _within(FINISH_SECONDS / 4, wandb.teardown)
            break


def _print_all() -> None:
    """Let W&B print again, as far as the environment lets it."""
    import wandb

    settings = wandb.Settings()
    settings.update_from_env_vars(dict(os.environ))
    wandb.termsetup(settings, None)


def _settings() -> Any:
    import wandb

    # What is not asked of the server is not sent: the command line and the environment may hold secrets.
    return wandb.Settings(
        console="off",
        disable_git=True,
        save_code=False,
        silent=True,
        init_timeout=INIT_SECONDS,
        finish_timeout=max(FINISH_SECONDS - 5, FINISH_SECONDS / 2),  # W&B gives up by itself before we do
        finish_timeout_raises=True,
        x_disable_meta=True,
        x_save_requirements=False,
        x_transaction_log_flush_interval=FLUSH_SECONDS,
    )


@contextlib.contextmanager
def _unreported() -> Iterator[None]:
    """Let W&B not report on itself: it would ask the server even offline, and wait for its answers at the end."""
    before = os.environ.get("WANDB_ERROR_REPORTING")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        yield
    finally:
        if before is None:
            del os.environ["WANDB_ERROR_REPORTING"]


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Do ``action``, but do not wait for it any longer than ``seconds``.

    Raises:
        TimeoutError: if it has not come to an end by then.
        Exception: whatever ``action`` raises.
    """
    raised: list[Exception] = []

    def act() -> None:
        try:
            action()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=act, daemon=True)  # a process that ends does not wait for it
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no end within {seconds:g} s")
    if raised:
        raise raised[0]
