"""The worker's main: jobs come in as lines of JSON on standard input, answers go out as lines of JSON on standard output."""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from node import log
from node.confinement import end_with_parent, step_back, without_network
from node.device import chosen
from node.errors import DeviceUnusable, NodeError
from node.ledger.payload import job_from_json, made_to_dict
from node.warm_models import WarmModels

BROKEN = 3  #: exit status after a failure that is not ours: memory, device or library may be in any state


def main(settings: dict[str, Any]) -> int:
    end_with_parent(settings["parent"])
    step_back()
    confined = without_network([Path(folder) for folder in settings["hidden"]])
    orders, answers = _take_over_standard_streams()
    log.set_up(settings["log_level"])
    module, _, name = settings["act"].partition(":")
    room = importlib.import_module(module)
    carry_out = getattr(room, name)
    device = chosen(settings["device"], settings["number"])
    _say(answers, ready=True, network=confined, device=device)
    loaded = WarmModels(settings["model_memory_mb"])
    if settings["warm"] and hasattr(room, "warm_up"):
        for _ in room.warm_up(Path(settings["bundles_dir"]), device, loaded, first=settings["first"], **settings["act_arguments"]):
            if select.select([orders], [], [], 0)[0]:  # a job came: it goes first
                break
    _say(answers, warm=True)
    for line in orders:
        if not _carry(carry_out, json.loads(line), settings, device, loaded, answers):
            return BROKEN
    gc.freeze()  # looking through all that models left for garbage would take longer than a node waits
    return 0


def _carry(
    carry_out: Callable[..., Any],
    order: dict[str, Any],
    settings: dict[str, Any],
    device: str,
    loaded: WarmModels,
    answers: IO[str],
) -> bool:
    """Carry one job out and answer. False: this process should not be trusted with another."""
    _say(answers, step="begin")
    try:
        made, summary = carry_out(
            job_from_json(json.dumps(order["job"])),
            clean_folder=Path(settings["clean_folder"]),
            results_folder=Path(settings["results_folder"]),
            bundles_dir=Path(settings["bundles_dir"]),
            device=device,
            loaded=loaded,
            written_at=datetime.fromisoformat(order["written_at"]),
            predecessor=tuple(order["predecessor"]) if order["predecessor"] else None,
            progress=lambda step: _say(answers, step=step),
            **settings["act_arguments"],
        )
    except DeviceUnusable as why:  # a GPU that failed once fails this process for good
        _say(answers, failed=str(why), leaving=True)
        return False
    except NodeError as why:
        _say(answers, failed=str(why))
        return True
    except Exception as why:  # its text may quote anything: type and place are enough
        _say(answers, failed=f"the pipeline failed: {log.where_it_failed(why)}", leaving=True)
        return False
    _say(answers, done=[made_to_dict(one) for one in made], summary=summary)
    return True


def _take_over_standard_streams() -> tuple[IO[str], IO[str]]:
    """(orders, answers). What a library prints goes to standard error from here on, and can't disturb the answers."""
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return orders, answers


def _say(answers: IO[str], **facts: Any) -> None:
    answers.write(json.dumps(facts) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
