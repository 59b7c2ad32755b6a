"""Ctrl-C, once, ends a command with one line and exit code 130, wherever it finds it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

HEAD = """if True:
    import atexit, os, signal, sys, time, weakref
    from distill.cli import main as module

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    class Thing: ...

    def work(argv):
        # What it would take to its end, and be told to be wrong: longer than the test waits.
        for _ in range(6000):
            time.sleep(0.01)
"""

PLACES = {
    "in the open": "interrupt()",
    # As of the locks of modules that are imported.
    "in a weak reference's callback": """
        thing = Thing()
        reference = weakref.ref(thing, lambda _: interrupt())
        del thing""",
    "in a finalizer": """
        Thing.__del__ = lambda _: interrupt()
        Thing()""",
    # As numpy's and other libraries' in C.
    "where it becomes another error": """
        try:
            interrupt()
            time.sleep(5)
        except KeyboardInterrupt:
            raise ImportError("a library failed to import") from None""",
    "where it becomes a mistake of the user's": """
        from distill.core.utils.errors import UserError
        try:
            interrupt()
            time.sleep(5)
        except KeyboardInterrupt:
            raise UserError("needs a library", key="data", hint="install it") from None""",
    "where it is passed over, and the command ends": """
        try:
            interrupt()
            time.sleep(5)
        except BaseException:
            return""",
}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("place", list(PLACES))
def test_one_is_enough(place: str) -> None:
    code = f"""{HEAD}
    def interrupted(argv):
        {PLACES[place].strip()}
        work(argv)

    module._run = interrupted
    sys.exit(module.main())
    """
    done = run(code)
    assert (done.returncode, done.stderr) == (130, "distill: error: interrupted\n")


def test_one_that_comes_when_the_command_is_done_ends_the_process_without_a_word() -> None:
    done = run(f"""{HEAD}
    module._run = lambda argv: print("done", flush=True)
    module.main()
    interrupt()
    print("not reached")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "done\n", "")


def test_the_end_of_an_interrupted_command_takes_what_is_registered_for_it_and_waits_for_no_thread() -> None:
    done = run(f"""{HEAD}
    import threading

    atexit.register(print, "registered")
    threading.Thread(target=work, args=([],)).start()
    module._run = lambda argv: interrupt()
    module.main()
    print("not reached")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (130, "registered\n", "distill: error: interrupted\n")


def test_a_second_one_and_a_lost_one_that_comes_again_cut_nothing_off_at_the_end() -> None:
    done = run(f"""{HEAD}
    def last():
        interrupt()
        time.sleep(0.1)  # the lost one would come again meanwhile
        print("registered", flush=True)

    def lost(argv):
        Thing.__del__ = lambda _: interrupt()
        Thing()

    atexit.register(last)
    module._run = lost
    module.main()
    """)
    assert (done.returncode, done.stdout, done.stderr) == (130, "registered\n", "distill: error: interrupted\n")


@pytest.mark.parametrize("said", ["interrupt()", "fail()"])
def test_one_within_the_last_words_is_not_shown(said: str) -> None:
    done = run(f"""{HEAD}
    from distill.core.utils.errors import UserError

    class Stream:
        flush = sys.stderr.flush

        def write(self, text, write=sys.stderr.write):
            interrupt()
            time.sleep(0.01)
            return write(text)

    def fail():
        raise UserError("is wrong", key="data", hint="mend it")

    sys.stderr = Stream()
    module._run = lambda argv: {said}
    module.main()
    """)
    assert (done.returncode, done.stderr) == (130, "distill: error: interrupted\n")


def test_the_end_comes_in_time_whatever_is_registered_for_it() -> None:
    done = run(f"""{HEAD}
    from distill.cli import interrupts
    interrupts._LONGEST = 0.1
    atexit.register(work, [])
    module._run = lambda argv: interrupt()
    module.main()
    """)
    assert (done.returncode, done.stderr) == (130, "distill: error: interrupted\n")


def test_who_has_the_signal_or_ignores_it_keeps_it() -> None:
    for other in ("signal.SIG_IGN", "print"):
        done = run(f"""{HEAD}
    signal.signal(signal.SIGINT, {other})
    module._run = lambda argv: None
    module.main()
    assert signal.getsignal(signal.SIGINT) is {other}
    """)
        assert done.returncode == 0, done.stderr


def test_what_is_lost_otherwise_is_shown_as_ever() -> None:
    done = run(f"""{HEAD}
    def lost(argv):
        Thing.__del__ = lambda _: 1 / 0
        Thing()

    module._run = lost
    sys.exit(module.main())
    """)
    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stderr
