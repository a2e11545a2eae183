"""One tree of errors. The first line of a class's docstring is its message; facts are attributes, never values of a dataset."""

from __future__ import annotations

from typing import Any


class NodeError(Exception):
    """Something in the node failed."""

    def __init__(self, detail: str = "", **facts: Any) -> None:
        self.detail = detail
        self.facts = facts
        super().__init__(detail)

    @property
    def message(self) -> str:
        """The class's own sentence: what happened and what to do."""
        return (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]

    def __str__(self) -> str:
        facts = ", ".join(f"{name}={value}" for name, value in self.facts.items())
        sentence = self.message if type(self) is not NodeError or not self.detail else ""  # of itself it says nothing
        return " ".join(part for part in (sentence, self.detail, f"({facts})" if facts else "") if part)


# --- the front door -------------------------------------------------------------------------------------------------
class SettingsInvalid(NodeError):
    """The settings can't be used; correct the key that is named and start again."""


class PlaceUnusable(NodeError):
    """A file or folder can't be used; see that it is there, has room, and belongs to who runs the command."""


class DatabaseAway(NodeError):
    """The database can't be used now; see that it runs and that the user of `database.url` (`database.identified_url`) may make tables there."""


class DatabaseNewer(NodeError):
    """A newer version of the node has changed this database; install that version again, or restore a backup from before it."""


class RulesInvalid(NodeError):
    """The rules can't be used; correct the line that is named."""

    def __init__(self, detail: str = "", *, at: tuple[int, int, str] = (0, 0, ""), **facts: Any) -> None:
        super().__init__(detail, **facts)
        self.line, self.column, self.what = at  #: from 1, and what is wrong there; 0: it is no place in the text


class RevisionRefused(NodeError):
    """The rules were not changed; `radnode rules list` shows how they stand."""


class NothingToDo(NodeError):
    """There is no DICOM object in the folder; name one that holds the files of a study."""


class PluginBroken(NodeError):
    """A plug-in that a rule or a setting names can't be loaded."""


# --- a study that is not taken further: normal work, with a reason ---------------------------------------------------
class StudyRefused(NodeError):
    """The study is not processed; the reason is kept with it in quarantine."""


class InstanceUnreadable(StudyRefused):
    """An instance can't be read as DICOM; send it again from the archive, or exclude it."""


class BurnedInAnnotation(StudyRefused):
    """The pixels may show who the patient is; look with `radnode quarantine show`, mask by hand and release, or leave the study refused."""


class TextDetectorFailed(StudyRefused):
    """Nobody could look for text in the pixels; install what requirements.txt names, then release the study."""


class PixelsNotSeen(StudyRefused):
    """The pixels must be looked at for text and can't be decoded; send them in another transfer syntax, or see them elsewhere and release."""


class RecognizableFeatures(StudyRefused):
    """The images may show a face; leave the study refused, send it without the series, or set `deidentification.recognizable_features`."""


class SopClassRefused(StudyRefused):
    """This kind of object can't be de-identified here, so it goes no further."""


class ReviewFailed(NodeError):
    """The study can't be looked at, masked or released; see `radnode quarantine list`."""


class IdentityConflict(StudyRefused):
    """The instances of one study name different patients; correct them in the archive and send the study again."""


class LeakFound(StudyRefused):
    """A value that identifies was still in what should be clean; nothing went on. Report the attribute that is named: the profile overlooks it."""


class ProcessingFailed(StudyRefused):
    """The node failed on this study several times; report the place that is named, and release the study once it is mended."""


# --- a series that a pipeline can't take: becomes a "not analysed: reason" report -------------------------------------
class NotAnalysed(NodeError):
    """The pipeline does not analyse this series; the report says why."""


class GeometryRefused(NotAnalysed):
    """The slices do not form one regular volume."""


class PixelsUnreadable(NotAnalysed):
    """The pixel data can't be decoded."""


class OutsideIntendedUse(NotAnalysed):
    """The series is outside what the model was made for."""

    def __str__(self) -> str:
        return f"{self.message.removesuffix('.')}: {self.detail}" if self.detail else self.message


# --- the vault --------------------------------------------------------------------------------------------------------
class VaultError(NodeError):
    """The vault can't do this."""


class KeyMissing(VaultError):
    """The key is gone, so what it protected can't be read any more."""


class MasterKeyWrong(VaultError):
    """The master key does not open this vault; give the key that the vault was made with."""


class MasterKeyUnreadable(MasterKeyWrong, SettingsInvalid):
    """The master key can't be read; give 32 random bytes in base64 (`openssl rand -base64 32`), in a file that the node may read."""


class RecordDamaged(VaultError):
    """A sealed record fails its authentication; restore it from the sender."""


class ProofInvalid(NodeError):
    """The report can't be checked; see `radnode proof`."""


class ReasonRefused(NodeError):
    """Who somebody is is not told without a reason."""


class RevealRefused(NodeError):
    """This can't be approved."""


class DiskFull(NodeError):
    """The disk is below its watermark; free space before more studies are sent."""


# --- bundles ----------------------------------------------------------------------------------------------------------
class BundleDamaged(NodeError):
    """A file of the model bundle does not have the digest that SHA256SUMS names; install the bundle again."""


class BundleInvalid(NodeError):
    """The folder is not a model bundle that the node can run."""


class DeviceUnusable(NodeError):
    """Nothing can be computed on the device of `workers.device`: no such GPU, no driver, or none for this torch; docs/operations.md tells more."""


class VersionRefused(NodeError):
    """The version can't be given that state; `radnode bundles list` shows what is installed and how it stands."""


class EvaluationRefused(NodeError):
    """The bundle can't be evaluated on this folder; docs/operations.md says what a folder must hold."""


class BundleRefused(NodeError):
    """The bundle is not added, and nothing of it was left behind."""


# --- what readers say -------------------------------------------------------------------------------------------------
class LinkRefused(NodeError):
    """The link opens nothing; ask for a new one where it came from."""


class VerdictRefused(NodeError):
    """The answer is not kept."""


class ExportRefused(NodeError):
    """Nothing was exported."""


# --- the doors over HTTP, and the Orthancs behind them -------------------------------------------------------------------
class TokenInvalid(NodeError):
    """The token can't be made or found; see `radnode tokens list`."""


class PersonInvalid(NodeError):
    """The user can't be added or found; see `radnode users list`."""


class SignInRefused(NodeError):
    """The identity provider's answer does not open this node."""


class PasswordRefused(NodeError):
    """The password stays as it is."""


class CursorInvalid(NodeError):
    """The cursor is none that this list gave; leave it out to begin with the first page."""


class KeyReused(NodeError):
    """This Idempotency-Key was used for another request; make a new key for each thing that is to be done."""


class KeyBusy(NodeError):
    """A request with this Idempotency-Key is still at work; ask again in a moment."""


class NotThere(NodeError):
    """There is nothing of that name here: it is not known, or was purged."""


class NotNow(NodeError):
    """This can't be done with it as it stands."""


class UploadRefused(NodeError):
    """The upload is not analysed, and nothing of it was kept."""


class UploadTooLarge(UploadRefused):
    """The upload is larger than this node takes, and nothing of it was kept."""


class NobodyFree(NodeError):
    """Every worker is busy; send it again a little later."""


class PredictionFailed(NodeError):
    """The pipeline failed on this upload, of which nothing was kept."""


class PeerUnknown(NodeError):
    """No Orthanc of that name is in the settings; add it below `orthancs`."""


class SourceFailed(NodeError):
    """The source did not give the study now; it is fetched again."""


# --- work and the way home --------------------------------------------------------------------------------------------
class JobFailed(NodeError):
    """The pipeline failed on this job."""


class GuestFailed(JobFailed):
    """The code of a bundle that dropped in failed; its process was ended."""


class ResultInvalid(JobFailed):
    """The pipeline's result does not fit the images it was computed from, so nothing is written; correct the pipeline."""


class DestinationUnknown(NodeError):
    """The settings name no such destination."""


class DeliveryFailed(NodeError):
    """The destination did not take the object now; it is tried again."""


class NoAnswer(DeliveryFailed):
    """The destination does not say what it accepts; what was remembered stays. Ask again when it can be reached."""


class DeliveryRefused(NodeError):
    """The destination refuses the object; trying again would not help."""


class NoticeNotSent(NodeError):
    """A notice could not be sent; it is tried again. `radnode notify test` says whether the settings are right."""


class TrailClosed(NodeError):
    """This user may not write the audit trail, so nothing is done; do it as the user that the node runs as, who owns its data folder."""


class ChainBroken(NodeError):
    """The audit trail was altered."""
