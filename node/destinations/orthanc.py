"""An Orthanc as a destination, by its REST interface (pyorthanc)."""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr
from pyorthanc import Orthanc as Client

from node.destinations.interface import Destination
from node.errors import DeliveryFailed, DeliveryRefused

# May pass when somebody corrects the settings or the load falls: not authorized, time-out, too early, too many.
_FOR_NOW = {401, 403, 407, 408, 425, 429}


class OrthancSettings(BaseModel):
    """Where the Orthanc is and who the node is there."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str
    username: str = ""
    password: SecretStr | None = None
    timeout_s: float = 60
    ca_file: str = ""  #: PEM of the authority that signed its certificate, when it is not a public one


class Orthanc(Destination):
    """POST /instances; an object that Orthanc already stores is a success."""

    Settings = OrthancSettings
    settings: OrthancSettings
    _kept: Client | None = None

    def send(self, part10: bytes) -> str:
        answer = self._ask("POST", "/instances", part10)
        try:
            status = answer.json()["Status"]
        except (ValueError, KeyError, TypeError) as why:
            raise DeliveryFailed("the answer is not Orthanc's", destination=self.name) from why
        if status in {"Success", "AlreadyStored"}:
            return f"Orthanc: {status}"
        if status == "FilteredOut":  # ReceivedInstanceFilter of a script or plug-in said no
            raise DeliveryRefused("Orthanc's filter does not accept the object", destination=self.name)
        raise DeliveryFailed(f"Orthanc answers {str(status)[:40]!r}", destination=self.name)

    def confirm(self, sop_class_uid: str, sop_instance_uid: str, study_instance_uid: str) -> bool | None:
        try:
            found = self._ask("POST", "/tools/lookup", sop_instance_uid.encode("ascii")).json()
        except (DeliveryFailed, DeliveryRefused, ValueError):
            return None
        return any(item.get("Type") == "Instance" for item in found)

    def echo(self) -> str:
        try:
            return f"Orthanc {str(self._ask('GET', '/system').json()['Version'])[:40]}"
        except (ValueError, KeyError, TypeError) as why:
            raise DeliveryFailed("the answer is not Orthanc's", destination=self.name) from why

    def _ask(self, method: str, route: str, content: bytes = b"") -> httpx.Response:
        try:
            answer: httpx.Response = self._client().request(method, self.settings.url.rstrip("/") + route, content=content)
        except httpx.TransportError as why:
            raise DeliveryFailed(f"no answer ({type(why).__name__})", destination=self.name) from None
        if answer.is_success:
            return answer
        facts: dict[str, Any] = {"destination": self.name, "http": answer.status_code}
        if answer.status_code in _FOR_NOW or answer.status_code >= 500:
            raise DeliveryFailed(**facts)
        raise DeliveryRefused("Orthanc can't read the object" if answer.status_code == 400 else "", **facts)

    def _client(self) -> Client:
        if self._kept is None:
            password = self.settings.password.get_secret_value() if self.settings.password else None
            verify: Any = self.settings.ca_file or True
            self._kept = Client(self.settings.url, self.settings.username or None, password, timeout=self.settings.timeout_s, verify=verify)
        return self._kept
