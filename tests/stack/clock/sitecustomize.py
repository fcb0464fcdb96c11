"""Python under libfaketime: now and then its clock_nanosleep fails with EINVAL; then it is asked again."""

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
