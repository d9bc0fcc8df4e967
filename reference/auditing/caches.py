"""What functions of some files remember of earlier calls by `functools.cache`, which a mutant must not leave to the next."""

import functools
import gc
from collections.abc import Callable, Iterable


def caches_of(filenames: Iterable[str]) -> list[Callable[[], None]]:
    """How to clear each such memory; that which other objects hold, as dicts of their own, is not found."""
    own, kind = set(filenames), type(functools.cache(len))
    found = []
    gc.unfreeze()  # what somebody has frozen is not among the objects
    for thing in gc.get_objects():
        if type(thing) is kind:
            code = getattr(thing.__wrapped__, "__code__", None)
            if code is not None and code.co_filename in own:
                found.append(thing.cache_clear)
    return found
