"""How many instances does the source hold of a study? Asked by Study Root C-FIND (PS3.4 C.4.1) or QIDO-RS (PS3.18 10.6)."""

from __future__ import annotations

from typing import Protocol

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined,unused-ignore]

from node import log
from node.association import keep_answers
from node.tls import Tls, client_context

_log = log.get(__name__)

_PENDING = (0xFF00, 0xFF01)  # PS3.4 Table C.4-1


class CountSource(Protocol):
    """A source of the settings (`sources`)."""

    @property
    def kind(self) -> str: ...  # dimse or qido
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def ae_title(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def tls(self) -> Tls | None: ...


def expected_instances(source: CountSource, study_instance_uid: str, *, calling_ae_title: str = "RADNODE") -> int | None:
    """Number of Study Related Instances (0020,1208) as the source tells it; None when it does not know the study or can't say.

    The count only shortens the wait for a study to settle, so a source that fails stops nothing. Results of ours that the
    source holds are in the count: then it is never reached, and the quiet timer settles the study, later but safely.
    The caller writes the audit event (Query, PS3.15 A.5.3.10), since only it knows the study's clean UID.
    """
    ask = _by_qido if source.kind == "qido" else _by_find
    try:
        answer = ask(source, study_instance_uid, calling_ae_title)
        return int(answer) if answer is not None else None
    except (OSError, ValueError, RuntimeError, requests.RequestException) as why:
        _log.warning("the source does not tell how many instances a study has", extra={"where": log.where_it_failed(why)})
        return None


def _by_find(source: CountSource, study_instance_uid: str, calling_ae_title: str) -> str | None:
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_instance_uid
    query.NumberOfStudyRelatedInstances = None
    ae = AE(calling_ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = source.timeout_s
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    tls = (client_context(source.tls), source.host) if source.tls else None
    association = keep_answers(ae.associate(source.host, source.port, ae_title=source.ae_title, tls_args=tls))
    if not association.is_established:
        raise ConnectionError("no association")
    found: str | None = None
    try:
        for status, match in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
            if "Status" not in status or status.Status not in (*_PENDING, 0x0000):
                raise ValueError("C-FIND failed")
            # a source may match more than it was asked for, so the answer's own UID decides
            if match is not None and match.get("StudyInstanceUID") == study_instance_uid:
                found = match.get("NumberOfStudyRelatedInstances")
    finally:
        association.release()
    return str(found) if found not in (None, "") else None


def _by_qido(source: CountSource, study_instance_uid: str, _calling_ae_title: str) -> str | None:
    client = DICOMwebClient(source.url.rstrip("/"), timeout=source.timeout_s)
    client.set_http_retry_params(retry=False)
    filters = {"StudyInstanceUID": study_instance_uid}
    for match in client.search_for_studies(search_filters=filters, fields=["NumberOfStudyRelatedInstances"]):
        study = Dataset.from_json(match)
        if study.get("StudyInstanceUID") == study_instance_uid:
            count = study.get("NumberOfStudyRelatedInstances")
            return str(count) if count not in (None, "") else None
    return None
