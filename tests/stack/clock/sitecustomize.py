"""Python under libfaketime: its clock_nanosleep fails now and then with EINVAL; the sleep is asked for again."""

import errno
import time

_sleep = time.sleep


def sleep(seconds: float) -> None:
    try:
        _sleep(seconds)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _sleep(seconds)


time.sleep = sleep
