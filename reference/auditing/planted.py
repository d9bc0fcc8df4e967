"""What the hook calls in a process of the user's tests: a class gets the mistake, or the witness, that was sent there.

Knows what was sent, and neither mistakes nor witnesses.
"""

import pickle
from collections.abc import Callable
from typing import Any

from reference.auditing.planting import Address, with_mistake
from reference.auditing.witness import Witness


def packed(address: Address, id: str = "", way: int = 0) -> bytes:
    """A mistake, or a witness where there is none, as `plant` reads it in another process."""
    return pickle.dumps((address, id, way))


def plant(namespace: dict[str, Any], content: bytes, note: Callable[[], None], record: str) -> None:
    """Put it on the class in the module in which that was just defined.

    Args:
        note: told that a pass could not be followed. record: the file in which a witness writes.
    """
    address, id, way = pickle.loads(content)
    owner = namespace[address.name]
    planted = with_mistake(owner, address, id, way, note) if id else Witness(owner, address, record, note)
    planted.put_on()
