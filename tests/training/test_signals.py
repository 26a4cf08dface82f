"""A signal is raised at the next check; a second one ends the process."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from flaxcifar.errors import Interrupted
from flaxcifar.training.signals import postponed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_raised_at_the_next_check(number, code):
    before = signal.getsignal(number)
    with postponed() as interruption:
        interruption.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=signal.Signals(number).name) as caught:
            interruption.check()
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_process():
    code = (
        "import os, signal\n"
        "from flaxcifar.training.signals import postponed\n"
        "with postponed():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('not here', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "still here\n")
    assert "send it again to stop now" in done.stderr


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run():
        with postponed() as interruption:
            interruption.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
