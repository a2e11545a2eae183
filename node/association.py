"""Answers on an association of ours reach who waits for them."""

from __future__ import annotations

from queue import Queue
from typing import Any

from pynetdicom.association import Association


def keep_answers(association: Association) -> Association:
    """Give an answer back that pynetdicom's own thread took; the same association.

    Between our requests that thread looks for requests of the peer. When it is held up at a bad moment (pynetdicom 3.0.4, a busy machine)
    it takes the answer to ours for one and drops it, and whoever asked waits until the time-out. An answer that comes while nobody waits is
    dropped as before: pynetdicom would take it for the one to the next request.
    """
    serve = association._serve_request

    def served(message: Any, context_id: int) -> None:
        somebody_waits = not association._reactor_checkpoint.is_set()  # it is cleared from before a request until its last answer
        if somebody_waits and message.is_valid_response and not message.is_valid_request:
            _put_first(association.dimse.msg_queue, (context_id, message))
        else:
            serve(message, context_id)

    association._serve_request = served
    return association


def _put_first(waiting: Queue[Any], item: Any) -> None:
    """Before what came since: of several answers the last one ends the wait."""
    with waiting.mutex:
        waiting.queue.appendleft(item)
        waiting.unfinished_tasks += 1
        waiting.not_empty.notify()
