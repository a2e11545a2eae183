"""Carries jobs out in this very process, one after the other: `radnode process`, and tests."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node import log
from node.domain import Job
from node.errors import NodeError
from node.ledger.holders import holder, is_gone
from node.ledger.jobs import Jobs
from node.runners.interface import Runner
from node.warm_models import WarmModels

_log = log.get(__name__)
LEASE_S = 24 * 3600.0
NOT_HERE = {"count", "job_timeout_s", "memory_mb", "lease_s", "hidden", "warm", "first"}  #: what other runners are told about their workers


class InlineRunner(Runner):
    """No worker to replace: a pipeline that takes this process down takes it down. Keyword arguments are those of every runner."""

    def __init__(
        self,
        jobs: Jobs,
        *,
        clean_folder: Path,
        results_folder: Path,
        bundles_dir: Path,
        device: str = "cpu",
        model_memory_mb: float = math.inf,
        act: str = "node.inference:carry_out",
        progress: Callable[[str], None] | None = None,
        **act_arguments: Any,
    ) -> None:
        module, _, name = act.partition(":")
        self._carry_out: Callable[..., Any] = getattr(importlib.import_module(module), name)
        self._jobs = jobs
        self.name = holder()
        jobs.give_back_all_of(is_gone)
        self._arguments = {
            "clean_folder": clean_folder,
            "results_folder": results_folder,
            "bundles_dir": bundles_dir,
            "device": "cpu" if device == "auto" else device,
            "loaded": WarmModels(model_memory_mb),
            **({"progress": progress} if progress else {}),
            **{name: value for name, value in act_arguments.items() if name not in NOT_HERE},
        }

    def run_waiting(self) -> int:
        """Carries out everything that waits. Nothing is under way when it returns."""
        while job := self._jobs.claim(self.name, LEASE_S):
            self._carry(job)
        return 0

    def close(self) -> None:
        """Nothing is left to end."""
        self._arguments["loaded"] = WarmModels()

    def _carry(self, job: Job) -> None:
        written_at = self._jobs.scheduled_at(job.id)
        try:
            made, summary = self._carry_out(
                job,
                written_at=written_at,
                predecessor=self._jobs.predecessor_report(job),
                **self._arguments,
            )
        except Exception as why:
            reason = str(why) if isinstance(why, NodeError) else f"the pipeline failed: {log.where_it_failed(why)}"
            again = self._jobs.failed(job, reason, worker=self.name)
            _log.exception("job failed", extra={"job": job.id, "again": again})
        else:
            self._jobs.done(job, made, summary, worker=self.name)
