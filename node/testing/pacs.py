"""A small PACS on loopback: C-ECHO and C-STORE, files in a folder. It can refuse, be slow, or be down."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from ssl import SSLContext
from types import TracebackType
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import Verification
from pynetdicom.transport import ThreadedAssociationServer


class Pacs:
    """Keeps what it is sent as `<folder>/<SOPInstanceUID>.dcm`; `statuses` answers come first, then 0x0000.

    `port` 0 takes a free one at the first `start`; a later start after `stop` uses the same again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ae_title: str = "PACS",
        port: int = 0,
        transfer_syntaxes: Iterable[str] | None = None,
        sop_classes: Iterable[str] | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.port = port
        self.slow_s = 0.0  #: how long each answer takes
        self.statuses: list[int] = []  #: answers for the next objects; nothing is kept unless the answer is success or a warning
        self.refuses_everything: int | None = None  #: a status for every object until it is None again
        self.stored: list[str] = []  #: SOP Instance UIDs, in the order they came, doubles too
        self.associations = 0
        self.only_for_its_name = False  #: reject associations that call it by another AE title
        self._syntaxes = list(transfer_syntaxes) if transfer_syntaxes else None
        self._sop_classes = (
            list(sop_classes) if sop_classes else [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
        )
        self._tls = tls
        self._server: ThreadedAssociationServer | None = None

    # --- life ---------------------------------------------------------------------------------------------------------
    def start(self) -> Pacs:
        """Listen on loopback."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ae = AE(self.ae_title)
        syntaxes = self._syntaxes or [str(syntax) for syntax in ALL_TRANSFER_SYNTAXES]
        ae.supported_contexts = [build_context(sop_class, syntaxes) for sop_class in self._sop_classes]
        ae.require_called_aet = self.only_for_its_name
        ae.add_supported_context(Verification)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers, ssl_context=self._tls)
        self.port = self._server.server_address[1]
        return self

    def stop(self) -> None:
        """Be down: the port is closed and open associations are aborted."""
        if self._server is not None:
            for association in self._server.active_associations:
                with suppress(OSError, RuntimeError, AttributeError):  # the peer may be gone at the same moment
                    association.abort()
            with suppress(OSError):
                self._server.shutdown()
            self._server = None

    def __enter__(self) -> Pacs:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # --- what it holds --------------------------------------------------------------------------------------------------
    def received(self, modality: str | None = None) -> list[Dataset]:
        """The objects it keeps, read back from their files, oldest first."""
        found = [dcmread(path) for path in sorted(self.folder.glob("*.dcm"), key=lambda path: path.stat().st_mtime_ns)]
        return [ds for ds in found if modality is None or ds.Modality == modality]

    # --- the DICOM side ---------------------------------------------------------------------------------------------------
    def _accepted(self, event: Any) -> None:
        self.associations += 1

    def _store(self, event: Any) -> int:
        if self.slow_s:
            time.sleep(self.slow_s)
        status = self.refuses_everything
        if status is None:
            status = self.statuses.pop(0) if self.statuses else 0x0000
        if status in {0x0000, 0x0001, 0x0107, 0x0116} or status & 0xF000 == 0xB000:  # success, warnings (PS3.7 Annex C)
            uid = str(event.request.AffectedSOPInstanceUID)
            if not UID(uid).is_valid or not re.fullmatch(r"[0-9.]+", uid):
                return 0xC000
            part = self.folder / f".{uid}"
            part.write_bytes(event.encoded_dataset())
            part.rename(self.folder / f"{uid}.dcm")
            self.stored.append(uid)
        return status
