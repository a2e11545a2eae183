"""A modality on loopback: sends a study by C-STORE and believes only 0x0000."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset
from pynetdicom import AE

from node.association import keep_answers
from node.errors import NodeError

PATIENCE_S = 180.0  #: for the answer to one instance: a machine may be busy starting everything else


def send(
    datasets: Sequence[Dataset], *, port: int, calling_ae: str = "SCANNER", called_ae: str = "RADNODE", host: str = "127.0.0.1"
) -> None:
    """One association with every instance. Raises NodeError when an instance is not taken, with its number and the status."""
    ae = AE(calling_ae)
    ae.dimse_timeout = ae.network_timeout = PATIENCE_S  # the second ends an association on which nothing moves, whoever waits
    for sop_class, syntax in {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in datasets}:
        ae.add_requested_context(sop_class, syntax)
    association = keep_answers(ae.associate(host, port, ae_title=called_ae))
    if not association.is_established:
        raise NodeError("the association was refused", port=port)
    try:
        for number, ds in enumerate(datasets, 1):
            status = association.send_c_store(ds)
            if "Status" not in status or status.Status != 0x0000:
                code = f"0x{status.Status:04X}" if "Status" in status else "no answer"
                raise NodeError("an instance was not taken", number=number, status=code)
    finally:
        association.release()
