"""A DICOMweb archive as a destination: STOW-RS out, QIDO-RS to confirm (PS3.18 10.5, 10.6; dicomweb-client)."""

from __future__ import annotations

from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from pydantic import BaseModel, ConfigDict, SecretStr
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from node.destinations.interface import Destination
from node.errors import DeliveryFailed, DeliveryRefused

_NOBODYS = "2.25.0"  #: a study that no archive has: asked for to see who answers
_FOR_NOW = {401, 403, 407, 408, 425, 429}  # may pass when somebody corrects the settings or the load falls

# Failure Reason (0008,1197), PS3.18 Table I.2-2 and PS3.4 Table B.2-1
_REASONS = {
    0x0110: "processing failure",
    0x0122: "SOP class not supported",
    0xC122: "transfer syntax not supported",
}


class StowSettings(BaseModel):
    """Where the archive's DICOMweb service is and who the node is there."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str  #: the base, e.g. https://pacs/dicom-web
    token: SecretStr | None = None  #: sent as `Authorization: Bearer`
    username: str = ""
    password: SecretStr | None = None
    timeout_s: float = 60
    ca_file: str = ""
    confirm: bool = True  #: ask by QIDO-RS whether the archive lists the object


class Stow(Destination):
    """One POST an object, so that each has its own answer."""

    Settings = StowSettings
    settings: StowSettings
    _kept: DICOMwebClient | None = None

    def send(self, part10: bytes) -> str:
        try:
            dataset = dcmread(BytesIO(part10))
            study = str(dataset.StudyInstanceUID)
        except (InvalidDicomError, EOFError, AttributeError) as why:
            raise DeliveryRefused("not a DICOM file of a study") from why
        try:
            answer = self._client().store_instances([dataset], study_instance_uid=study)
        except requests.HTTPError as why:
            response = why.response
            answer = _failures(response)
            if not _failed(answer):
                self._raise(response.status_code)
        except (requests.RequestException, OSError) as why:
            raise DeliveryFailed(f"no answer ({type(why).__name__})", destination=self.name) from None
        except ValueError as why:  # 2xx whose body is not what its Content-Type says
            raise DeliveryFailed("the answer is not DICOM JSON", destination=self.name) from why
        if failed := _failed(answer):
            self._refuse(failed)
        warned = [item.get("WarningReason") for item in answer.get("ReferencedSOPSequence", [])]
        return "STOW-RS stored" + "".join(f", warning 0x{code:04X}" for code in warned if code)

    def confirm(self, sop_class_uid: str, sop_instance_uid: str, study_instance_uid: str) -> bool | None:
        if not self.settings.confirm:
            return None
        try:
            found = self._client().search_for_instances(study_instance_uid, search_filters={"SOPInstanceUID": sop_instance_uid})
        except (requests.RequestException, OSError, ValueError):
            return None
        return any(item.get("00080018", {}).get("Value") == [sop_instance_uid] for item in found)

    def echo(self) -> str:
        try:
            self._client().search_for_studies(search_filters={"StudyInstanceUID": _NOBODYS}, limit=1)
        except requests.HTTPError as why:
            self._raise(why.response.status_code)
        except (requests.RequestException, OSError) as why:
            raise DeliveryFailed(f"no answer ({type(why).__name__})", destination=self.name) from None
        except ValueError as why:
            raise DeliveryFailed("the answer is not DICOM JSON", destination=self.name) from why
        return "QIDO-RS answered"

    def _raise(self, status: int) -> None:
        if status in _FOR_NOW or status >= 500:
            raise DeliveryFailed(destination=self.name, http=status)
        raise DeliveryRefused(destination=self.name, http=status)

    def _refuse(self, failed: list[int]) -> None:
        code = failed[0]
        words = f"Failure Reason 0x{code:04X}" + (f", {_REASONS[code]}" if code in _REASONS else "")
        if code & 0xFF00 == 0xA700 or code == 0x0110:  # later it may fit, or go well
            raise DeliveryFailed(words, destination=self.name)
        raise DeliveryRefused(words, destination=self.name)

    def _client(self) -> DICOMwebClient:
        if self._kept is None:
            session = requests.Session()
            if self.settings.username and self.settings.password:
                password = self.settings.password.get_secret_value()
                session.auth = (self.settings.username.encode(), password.encode())  # UTF-8 (RFC 7617); text would go as Latin-1
            if self.settings.ca_file:
                session.verify = self.settings.ca_file
            headers = {"Accept": "application/dicom+json"}
            if self.settings.token:
                headers["Authorization"] = f"Bearer {self.settings.token.get_secret_value()}"
            session.hooks["response"].append(_plain_type)
            client = DICOMwebClient(_with_port(self.settings.url), session=session, headers=headers, timeout=self.settings.timeout_s)
            client.set_http_retry_params(retry=False)  # the outbox retries
            self._kept = client
        return self._kept


def _failed(answer: Dataset) -> list[int]:
    items = [*answer.get("FailedSOPSequence", []), *answer.get("OtherFailuresSequence", [])]
    return [int(item.get("FailureReason", 0x0110)) for item in items]


def _failures(response: requests.Response) -> Dataset:
    """What a 4xx or 5xx says of single objects, if it says so in DICOM JSON."""
    try:
        return Dataset.from_json(response.json())
    except Exception:  # a proxy's HTML page, a problem document: the status code speaks
        return Dataset()


def _plain_type(response: requests.Response, *_args: Any, **_kw: Any) -> None:
    """dicomweb-client compares Content-Type by the letter: drop `; charset=…`."""
    kind = response.headers.get("Content-Type", "")
    if kind.startswith(("application/dicom+json", "application/json")):
        response.headers["Content-Type"] = kind.partition(";")[0].strip()


def _with_port(url: str) -> str:
    """dicomweb-client 0.61 wants neither a trailing slash nor an empty path."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path.rstrip("/")).geturl()
