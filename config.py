"""Every setting, one frozen model per room. Read at the front door only; strongest first: arguments, environment, secret files, YAML, defaults."""

from __future__ import annotations

import logging
import os
import re
from datetime import time
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NestedSecretsSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from node.errors import SettingsInvalid
from node.tls import Tls

PREFIX = "RADNODE_"
NOT_SETTINGS = {
    "RADNODE_CONFIG",
    "RADNODE_SHARED",
    "RADNODE_TEST_OPTIONAL",
    "RADNODE_TEST_EVERY_FILE",
    "RADNODE_TEST_EXAMPLES",
    "RADNODE_TEST_PICTURES",
    "RADNODE_SECRETS_DIR",
    "RADNODE_READY_FD",
}


Port = Annotated[int, Field(ge=0, le=65535)]


class Room(BaseModel):
    """A room's part of the settings: frozen, and no key that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Caller(Room):
    """Who may send by C-STORE."""

    ae_title: str
    addresses: tuple[str, ...] = ()  #: networks in CIDR form the caller may come from; empty: any

    @field_validator("addresses")
    @classmethod
    def _are_networks(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for number, address in enumerate(addresses, 1):
            try:
                ip_network(address, strict=False)
            except ValueError:
                raise ValueError(f"number {number} is no network; write as in 10.20.0.0/16 or 10.20.1.5") from None
        return addresses


class ScpSettings(Room):
    """The DICOM door (`node/scp.py`)."""

    host: str = "127.0.0.1"
    port: Port = 11112  #: in the clear; 0: none, DICOM comes over TLS only
    tls_port: Port = 0  #: DICOM over TLS; 2762 is registered for it. 0: none
    tls_cert_file: Path | None = None  #: PEM, the node's certificate and those that signed it
    tls_key_file: Path | None = None  #: PEM, its private key
    tls_ca_file: Path | None = None  #: PEM, who signs the peers' certificates: a peer must show one. Without it any peer may come
    ae_title: str = Field("RADNODE", max_length=16)
    callers: tuple[Caller, ...] = ()  #: nobody may send until somebody is named
    processes: int = Field(2, ge=1, le=64)
    max_pdu_bytes: int = Field(131072, ge=4096)
    max_associations: int = Field(64, ge=1)  #: per process
    idle_timeout_s: float = Field(60, gt=0)

    @model_validator(mode="after")
    def _some_way_in(self) -> ScpSettings:
        named = (self.tls_cert_file, self.tls_key_file)
        if self.tls_port and None in named:
            raise ValueError("tls_port needs tls_cert_file and tls_key_file")
        if not self.tls_port and (any(named) or self.tls_ca_file):
            raise ValueError("a certificate is named but no tls_port: set it, 2762 is registered for DICOM over TLS")
        if self.tls_port == self.port:
            raise ValueError(
                "port is 0 and so is tls_port: set one"
                if not self.port
                else "port and tls_port must differ: one speaks TLS, the other never does"
            )
        return self


class SignInSettings(Room):
    """People at the door (`node/ledger/people.py`, `sessions.py`)."""

    max_failures: int = Field(5, ge=1)  #: wrong passwords in a row until the account is locked for a while
    lock_minutes: float = Field(15, gt=0)
    idle_minutes: float = Field(30, gt=0)  #: a session ends when nobody was there for so long …
    longest_hours: float = Field(12, gt=0)  #: … and at the latest after so long


class OidcSettings(Room):
    """An identity provider that vouches for people (`node/web/openid.py`)."""

    issuer: str  #: https; http only on this machine
    client_id: str
    client_secret: SecretStr | None = None
    label: str = "the hospital's account"  #: what the button is called
    scope: str = "openid profile"
    name_claim: str = "preferred_username"
    role_claim: str = "groups"  #: a claim's name; else dots lead inside: realm_access.roles
    roles: dict[str, Literal["admin", "integrator", "radiologist", "auditor", "privacy"]]  #: value of the claim: role; of all that fit

    @field_validator("issuer")
    @classmethod
    def _over_tls(cls, issuer: str) -> str:
        if not re.match(r"https://|http://(127\.0\.0\.1|localhost)(:|/|$)", issuer):
            raise ValueError("an issuer is an https address")
        return issuer


class WebSettings(Room):
    """HTTP (`node/web/`)."""

    host: str = "127.0.0.1"
    port: Port = 8080
    hook_secret: SecretStr | None = None  #: shared with Orthanc's script; the hook is closed without it
    max_upload_mb: int = Field(4096, ge=1)
    address: str = ""  #: of this node as people see it, e.g. https://radnode.hospital.example; empty: as each request says
    reading_links: Literal["off", "report"] = "off"  #: whether reports carry a link to the reading page: it opens without a password
    reading_link_days: float = Field(30, gt=0)  #: how long such a link is good
    tls_cert_file: Path | None = (
        None  #: PEM, the node's certificate and those that signed it: the node speaks HTTPS itself, TLS 1.2 or later
    )
    tls_key_file: Path | None = None  #: PEM, its private key
    sign_in: SignInSettings = SignInSettings()
    oidc: OidcSettings | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> WebSettings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together: set both, or none behind a proxy")
        return self

    @model_validator(mode="after")
    def _links_lead_somewhere(self) -> WebSettings:
        if self.reading_links != "off" and not re.match(r"https?://[^/\s]", self.address):
            raise ValueError(
                "a link in a report needs `address`: set web.address as readers reach it, e.g. https://radnode.hospital.example"
            )
        return self


class PredictSettings(Room):
    """`/predict` and `/heatmap` (`node/visits.py`): workers of their own, started with the first request."""

    enabled: bool = True
    workers: int = Field(1, ge=1)
    timeout_s: float = Field(300, gt=0)  #: a model that takes longer over one request is ended
    wait_s: float = Field(60, gt=0)  #: for a free worker
    most_at_once: int = Field(16, ge=1)  #: requests; the next one is asked to come again
    max_files: int = Field(4096, ge=1)  #: of one request, unpacked
    idle_s: float = Field(900, gt=0)  #: without a request the workers end and give their memory back


class IntakeSettings(Room):
    """When has a study settled (`node/identified/intake.py`)?"""

    settle_after_s: float = Field(30, ge=0)
    settle_complete_after_s: float = Field(2, ge=0)  #: once the count that the source reports is reached
    count_from: str = ""  #: name of a source below `sources` that can say how many instances a study has
    min_free_mb: int = Field(2048, ge=0)  #: disk watermark: below it nothing more is accepted


class VaultSettings(Room):
    """Keys and sealed instances (`node/identified/`)."""

    master_key_file: Path | None = None  #: 32 random bytes in base64; default: DATA_DIR/identified/master.key, made at the first start
    master_key: SecretStr | None = None  #: the same in the environment
    segment_mb: int = Field(64, ge=1)
    tombstones_file: Path | None = None  #: which studies were purged; default: DATA_DIR/identified/purged.log


class DatabaseSettings(Room):
    """Where state lives (SQLAlchemy URLs). Default: SQLite in the data folder."""

    url: str = ""
    identified_url: str = ""

    @field_validator("url", "identified_url")
    @classmethod
    def _of_a_kind_that_is_used(cls, url: str) -> str:
        kind, _, rest = url.partition("://")
        if url and not re.fullmatch(r"sqlite|postgres(ql)?(\+psycopg)?", kind):
            raise ValueError("write as in postgresql://USER:PASSWORD@HOST/NAME, or sqlite:////PATH")
        if not kind.startswith("postgres"):
            return url
        if rest.partition("?")[0].count("@") > 1:
            raise ValueError("an @, : or / in a password is written as %40, %3A or %2F")
        if not re.fullmatch(r"([^@]*@)?(\[[^]]*\]|[^:/?]*)(:\d+)?(/[^?]*)?(\?.*)?", rest):
            raise ValueError("after the host stand a port, which is a number, and the name of the database")
        return f"postgresql+psycopg://{rest}"  # the driver that is there


class OrthancSettings(Room):
    """An Orthanc that tells the node about stable studies, by the name that its script sends."""

    url: str
    username: str = ""
    password: SecretStr | None = None
    ca_file: str = ""  #: PEM of the authority that signed its certificate, when it is not a public one
    catch_up_every_s: float = Field(30, gt=0)
    timeout_s: float = Field(60, gt=0)


class SourceSettings(Room):
    """A PACS that can be asked how many instances a study has: Study Root C-FIND, or QIDO-RS."""

    kind: Literal["dimse", "qido"]
    host: str = ""
    port: Port = 104
    ae_title: str = ""
    url: str = ""
    timeout_s: float = Field(10, gt=0)
    tls: Tls | None = None  #: of kind dimse


class WorkersSettings(Room):
    """The local runner (`node/runners/local.py`)."""

    count: int = Field(1, ge=1)
    device: str = "auto"
    job_timeout_s: float = Field(1800, gt=0)
    memory_mb: int = Field(8192, ge=256)  #: a worker above this is replaced
    model_memory_mb: int = Field(2048, ge=0)  #: of a worker, for models that stay warm: the least recently used leaves first


class DeliverySettings(Room):
    """The outbox (`node/identified/delivery.py`)."""

    first_retry_s: float = Field(2, ge=0)
    longest_retry_s: float = Field(900, ge=0)
    give_up_after_hours: float = Field(72, ge=0)


class RetentionSettings(Room):
    """What is forgotten, and when (`node/housekeeping.py`)."""

    keep_days: float = Field(14, ge=0)
    keep_headers_days: float = Field(90, ge=0)  #: what rules can ask about past studies, for `radnode rules replay`


class RoutingSettings(Room):
    """How rules are changed and read (`node/rules/`). Their file is the setting `rules`."""

    approval: Literal["none", "second person"] = "none"  #: of what is published: another person than the publisher must approve it
    time_zone: str = ""  #: of `between`, e.g. Europe/Berlin; empty: this machine's

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            if name:
                ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("not the name of a time zone; write as in Europe/Berlin") from None
        return name


class DeviceRegionSettings(Room):
    """A device that writes in fixed places: they are blanked unseen (`node/identified/regions.py`). What is left empty matches everything."""

    modality: str = ""
    manufacturer: str = ""
    model: str = ""
    rows: int = Field(0, ge=0)
    columns: int = Field(0, ge=0)
    image_type: str = ""  #: a value of Image Type, e.g. SECONDARY
    boxes: tuple[tuple[NonNegativeInt, NonNegativeInt, PositiveInt, PositiveInt], ...]  #: left, top, width, height in pixels


class DeidentificationSettings(Room):
    """Options of the profile (PS3.15 Annex E, `node/identified/profile.py`)."""

    clean_pixel_data: bool = True
    clean_graphics: bool = False
    clean_structured_content: bool = False
    clean_descriptors: bool = True
    full_dates: bool = False  #: needs `modified_dates: false`
    modified_dates: bool = True
    retain_patient_characteristics: bool = True
    retain_device_identity: bool = False
    retain_uids: bool = False  #: for `radnode deidentify` and `reidentify` only
    retain_safe_private: bool = True
    retain_institution_identity: bool = False
    cap_ages: bool = True  #: ages over 89 years become 90 (HIPAA Safe Harbor)
    text_detection: Literal["off", "usual", "all"] = "usual"  #: which images are looked at for text (`node/identified/pixels.py`)
    device_regions: tuple[DeviceRegionSettings, ...] = ()  #: beside the devices that the node knows
    unflagged_pixels: Literal["accept", "refuse"] = "accept"  #: with `text_detection: off`, images that say nothing of text in them
    recognizable_features: Literal["keep", "refuse", "deface"] = "keep"  #: CT, MR and PET volumes that show a face
    leak_scan: bool = True  #: search what leaves for all that identifies, refuse the study when something is found, sign for the rest

    @model_validator(mode="after")
    def _one_kind_of_dates(self) -> DeidentificationSettings:
        if self.full_dates and self.modified_dates:
            raise ValueError("dates are either kept in full or modified: with full_dates set modified_dates to false")
        return self


class ReidentificationSettings(Room):
    """Who may learn a name by hand (`node/identified/reveal.py`)."""

    approval: Literal["none", "second person"] = "none"  #: of each `reveal` and `reidentify`
    valid_hours: float = Field(24, gt=0)  #: of a request and its approval


class SmtpSettings(Room):
    """Mail (`node/post.py`)."""

    host: str
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: str
    to: tuple[str, ...] = Field(min_length=1)
    username: str = ""
    password: SecretStr | None = None
    ca_file: str = ""  #: PEM of the authority that signed the server's certificate, when it is not a public one
    timeout_s: float = Field(20, gt=0)

    @model_validator(mode="after")
    def _no_password_in_the_clear(self) -> SmtpSettings:
        if self.security == "none" and (self.username or self.password):
            raise ValueError("username and password would travel in the clear: set security to starttls or tls")
        return self


class WebhookSettings(Room):
    """A program that takes notices as signed JSON."""

    name: str = Field(min_length=1, max_length=80)
    url: SecretStr  #: may hold a secret of its own
    secret: SecretStr = Field(min_length=16)  #: for the HMAC
    ca_file: str = ""
    timeout_s: float = Field(20, gt=0)


class SilenceSettings(Room):
    """A source that usually sends: an AE title, the name of an Orthanc below `orthancs`, or `stow`."""

    source: str
    hours: float = Field(gt=0)  #: without a study, within its working time
    between: tuple[time, time] = (time(0), time(0))  #: local time, e.g. ["07:00", "19:00"]; twice the same: always
    weekdays: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

    @field_validator("between", mode="before")
    @classmethod
    def _quoted(cls, times: Any) -> Any:
        if any(isinstance(one, int) for one in times):  # YAML reads 19:00 as 1140
            raise ValueError('put the times in quotes, as in ["07:00", "19:00"]')
        return times

    @model_validator(mode="after")
    def _can_be_heard(self) -> SilenceSettings:
        opens, closes = (one.hour + one.minute / 60 for one in self.between)
        length = (closes - opens) % 24 or 24
        if self.hours >= length and not (length == 24 and len(set(self.weekdays)) == 7):
            raise ValueError(f"the source works {length:g} hours a day, so {self.hours:g} hours of silence never pass: give fewer")
        return self


class NotificationsSettings(Room):
    """Who is told when something is wrong (`node/notices.py`). Nobody, unless named here."""

    smtp: SmtpSettings | None = None
    webhooks: tuple[WebhookSettings, ...] = ()
    silence: tuple[SilenceSettings, ...] = ()
    waiting_hours: float = Field(1, gt=0)  #: a destination that an object waits for so long is trouble
    quiet_s: float = Field(4 * 3600, ge=60)  #: a trouble that stays is told again after so long
    every_s: float = Field(60, gt=0)  #: how often the node looks
    link: str = ""  #: address of the node's pages, as a person reaches them

    @model_validator(mode="after")
    def _names_differ(self) -> NotificationsSettings:
        if len({hook.name for hook in self.webhooks}) < len(self.webhooks):
            raise ValueError("two webhooks have the same name")
        return self


class Settings(BaseSettings):
    """All settings. Every key is also an environment variable: `RADNODE_<ROOM>__<KEY>`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Path("data")
    rules: Path | None = None
    bundles_dir: Path = Path(__file__).parent / "models"
    log_level: str = "INFO"
    scp: ScpSettings = ScpSettings()
    web: WebSettings = WebSettings()
    predict: PredictSettings = PredictSettings()
    intake: IntakeSettings = IntakeSettings()
    vault: VaultSettings = VaultSettings()
    database: DatabaseSettings = DatabaseSettings()
    workers: WorkersSettings = WorkersSettings()
    delivery: DeliverySettings = DeliverySettings()
    retention: RetentionSettings = RetentionSettings()
    routing: RoutingSettings = RoutingSettings()
    deidentification: DeidentificationSettings = DeidentificationSettings()
    reidentification: ReidentificationSettings = ReidentificationSettings()
    notifications: NotificationsSettings = NotificationsSettings()
    orthancs: dict[str, OrthancSettings] = {}
    sources: dict[str, SourceSettings] = {}
    destinations: dict[
        str, dict[str, Any]
    ] = {}  #: by name: `kind`, `profile` (node/profiles.py), `transfer_syntax` (node/seg_syntax.py) and the keys of `node/destinations/<kind>.py`

    @field_validator("data_dir", "bundles_dir", "rules")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else path

    @field_validator("log_level")
    @classmethod
    def _is_a_level(cls, level: str) -> str:
        if level not in logging.getLevelNamesMapping():
            raise ValueError("one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
        return level

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, NestedSecretsSettingsSource(file_secret_settings), _Yaml(settings_cls)


class _Yaml(PydanticBaseSettingsSource):
    """The YAML file, weakest of all sources. Its content is put here by `load`."""

    content: dict[str, Any] = {}

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self.content.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self.content)


def load(config: Path | None = None, **arguments: Any) -> Settings:
    """The settings of this start.

    Raises
    ------
    SettingsInvalid
        Naming the key, what is wrong with it, and the keys that are known in its place. Values are not repeated.
    """
    config = config or (Path(os.environ["RADNODE_CONFIG"]) if os.environ.get("RADNODE_CONFIG") else None)
    _Yaml.content = _read_yaml(config) if config else {}
    _no_unknown_environment()
    secrets = _secrets_folder()
    try:
        return Settings(_secrets_dir=secrets, **arguments)
    except ValidationError as why:
        raise SettingsInvalid("; ".join(_sentence(error) for error in why.errors())) from None
    except OSError as why:
        raise SettingsInvalid(f"the secret file {why.filename} can't be read: {why.strerror}") from None
    except SettingsError as why:
        named = re.search(r'field "(\w+)"', str(why))
        key = named[1] if named else "a key"
        raise SettingsInvalid(f"{key}: a list or a table in the environment or a secret file is written in JSON") from None
    finally:
        _Yaml.content = {}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except OSError as why:
        raise SettingsInvalid(f"{path} can't be read: {why.strerror}") from None
    except yaml.YAMLError as why:
        mark = getattr(why, "problem_mark", None)
        raise SettingsInvalid(f"{path} is not YAML{f', line {mark.line + 1}' if mark else ''}") from None
    if not isinstance(content, dict):
        raise SettingsInvalid(f"{path} must hold keys and values")
    return content


def _secrets_folder() -> str | None:
    """Where secret files lie (`radnode_web__hook_secret`). One whose room is not known would be passed over, and a key be made in its place."""
    named = os.environ.get("RADNODE_SECRETS_DIR")
    folder = Path(named or "/run/secrets")
    if not folder.is_dir():
        if named:
            raise SettingsInvalid(f"RADNODE_SECRETS_DIR: there is no folder {named}")
        return None
    for file in sorted(folder.iterdir()):
        name = file.name.upper()
        if name.startswith(PREFIX) and "__" in name and name.split("__")[0] not in _known_variables():
            raise SettingsInvalid(f"the secret file {file} is not of a setting; known: {', '.join(sorted(_known_variables())).lower()}")
    return str(folder)


def _known_variables() -> set[str]:
    return {f"{PREFIX}{name}".upper() for name in Settings.model_fields}


def _no_unknown_environment() -> None:
    known = _known_variables()
    for variable in os.environ:
        name = variable.upper()
        if name.startswith(PREFIX) and name not in NOT_SETTINGS and name.split("__")[0] not in known:
            raise SettingsInvalid(f"{variable} is not a setting; known: {', '.join(sorted(known | {'RADNODE_CONFIG'}))}")


def _sentence(error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return f"{'.'.join(path)} is not a setting; known: {', '.join(_known(path[:-1]))}"
    return f"{'.'.join(path)}: {error['msg'].removeprefix('Value error, ')}"


def _known(path: list[str]) -> list[str]:
    model: Any = Settings
    for part in path:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        field = model.model_fields.get(part)
        model = field.annotation if field else model
        arguments = [a for a in getattr(model, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        model = arguments[0] if arguments else model
    return sorted(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
