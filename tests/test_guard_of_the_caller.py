"""What belongs to the caller while layers run in its process: its alarm, its output, its random numbers, its threads."""

import signal
import sys
import threading
import time

import numpy as np
import pytest

import npnorm
from reference import check
from reference.subjects.guard import Clock, OutOfTime


def _spins():
    while True:
        pass


def test_alarm_of_the_caller_still_rings():
    """One that is due while a layer runs, and one that is due later."""
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    try:
        for due in (0.1, 0.5):
            begun = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, due)
            with Clock(20).interrupting():
                while time.monotonic() < begun + 0.3:
                    pass
            while time.monotonic() < begun + 0.7:
                pass
            assert len(rung) == 1
            assert due <= rung.pop() - begun < due + 0.15
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_alarm_of_the_caller_does_not_save_a_layer_that_hangs():
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(OutOfTime), Clock(0.3).interrupting():
            _spins()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_two_threads_may_check_at_once(capsys):
    """Standard output, the warnings' filters and NumPy's random state are the caller's again afterwards."""
    out, bits = sys.stdout, np.random.get_bit_generator()
    reports = []

    def work():
        reports.append(check(npnorm.LayerNorm, examples=0, ndims=[2]).passed)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reports == [True] * 3
    assert sys.stdout is out
    assert np.random.get_bit_generator() is bits
