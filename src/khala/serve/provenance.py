"""Content Credentials: every sound file says, signed, that a model made it, and which one.

    WAV, FLAC, MP3   inside the file, as C2PA says (https://c2pa.org)
    Opus             in a second file beside it, ``.c2pa``: our library cannot put them into Ogg

What is signed: "AI-generated" in the words of IPTC, the model's name and digests, the time, the
song's id, its title, levels and seed. Never the lyrics, the prompt or a person. Nothing here asks
the network: no time stamp authority, no trust list, no credentials kept elsewhere.

docs/provenance.md says what this is worth and what it is not.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from khala.errors import AudioError, ConfigError, StageError
from khala.serve.credential import Credential, load, load_or_make
from khala.serve.made import ACTIONS, DISCLOSURE, GENERATED, RESHAPED, SONG, SOURCE_TYPES, Made

__all__ = ["EMBEDDED", "Made", "Signer", "Verified", "verify"]

EMBEDDED = (".wav", ".flac", ".mp3")
"""Endings whose files hold their credentials; ``.opus`` has a sidecar."""

MIME_TYPES: Mapping[str, str] = MappingProxyType(
    {".wav": "audio/wav", ".flac": "audio/flac", ".mp3": "audio/mpeg", ".opus": "audio/ogg"}
)
_UNTRUSTED = "signingCredential.untrusted"
_PURPOSES = "1.3.6.1.5.5.7.3.4\n1.3.6.1.5.5.7.3.36\n1.3.6.1.4.1.62558.2.1\n"
"""Certificates may be for e-mail protection, document signing or C2PA's own claim signing."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a file says, and whether that still holds.

    The texts are the file's own: whoever shows them must expect anything in them.
    """

    state: str
    """"trusted": as signed, by a certificate that a given anchor vouches for; "valid": as signed,
    by somebody; "invalid": changed, damaged or badly signed; "absent": no credentials."""

    problems: tuple[str, ...] = ()
    """Why it is invalid."""

    source: str = ""
    """IPTC's word for where it comes from, such as "trainedAlgorithmicMedia"."""

    generator: str = ""
    model: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    song_id: str = ""
    made_at: str = ""
    signer: str = ""
    """Organisation and name in the certificate."""

    @property
    def is_intact(self) -> bool:
        """Whether nothing was changed since it was signed."""
        return self.state in ("trusted", "valid")

    @property
    def is_ai_generated(self) -> bool:
        """Whether the file says so; believe it as far as ``state`` goes."""
        return self.source in (GENERATED, RESHAPED)


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Signs files. May be used by many threads at once."""

    credential: Credential

    @property
    def root(self) -> str:
        """The certificate that vouches for the others, in PEM, if it is known: for `verify`."""
        return self.credential.root

    @classmethod
    def load_or_make(cls, folder: Path) -> Self:
        """Use the key in a folder; make it first if there is none.

        Raises:
            ConfigError: it cannot be written, read or used, or others can read it.
        """
        _c2pa()
        return cls._tried(load_or_make(folder))

    @classmethod
    def from_files(cls, chain: Path, key: Path) -> Self:
        """Use the operator's own certificates (PEM, the signer's first) and private key.

        Raises:
            ConfigError: they cannot be read or used, do not belong together or have expired, or
                others can read the key.
        """
        _c2pa()
        return cls._tried(load(chain, key))

    def sign(self, data: bytes, ending: str, made: Made) -> bytes:
        """Return a WAV, FLAC or MP3 with its credentials in it; the samples stay the same.

        Two signatures of one file differ: 16 random bytes go into each assertion.

        Raises:
            AudioError: it is another kind of file, or has credentials already.
            StageError: it was not signed, or what was signed does not verify.
        """
        if ending not in EMBEDDED:
            raise AudioError(
                f"credentials cannot be put into {ending!r}: allowed are {', '.join(EMBEDDED)}; "
                "Opus has a sidecar"
            )
        before = verify(data, ending)
        if before.state != "absent":
            reason = before.problems[0] if before.problems else "it has credentials already"
            raise AudioError(f"cannot sign this {ending} file: {reason}")
        out = io.BytesIO()
        self._sign(data, ending, made, out)
        signed = out.getvalue()
        _check(verify(signed, ending), made)
        return signed

    def sidecar(self, data: bytes, made: Made) -> bytes:
        """Return the credentials of an Opus file, to be kept beside it as ``.c2pa``.

        Raises:
            AudioError: it is no Ogg file.
            StageError: it was not signed, or what was signed does not verify.
        """
        if not data.startswith(b"OggS"):
            raise AudioError("a sidecar is made for Opus in Ogg: this is another kind of file")
        sidecar = self._sign(data, ".opus", made, io.BytesIO())
        _check(verify(data, ".opus", sidecar=sidecar), made)
        return sidecar

    def _sign(self, data: bytes, ending: str, made: Made, out: io.BytesIO) -> bytes:
        c2pa = _c2pa()
        mime_type = MIME_TYPES[ending]
        try:
            self.credential.check_dates()
            info = c2pa.C2paSignerInfo(
                alg=c2pa.C2paSigningAlg[self.credential.algorithm],
                sign_cert=self.credential.chain.encode(),
                private_key=self.credential.key.encode(),
                ta_url=None,
            )
            with (
                _context(c2pa) as context,
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(made.manifest(mime_type), context) as builder,
            ):
                if ending not in EMBEDDED:
                    builder.set_no_embed()
                return bytes(builder.sign(signer, mime_type, io.BytesIO(data), out))
        except (c2pa.C2paError, ConfigError) as error:
            reason = _line(error)
            raise StageError(
                f"cannot sign a {ending} file: {reason}", stage="provenance"
            ) from error

    @classmethod
    def _tried(cls, credential: Credential) -> Self:
        """Sign a short silence: what C2PA forbids is said at the start, not at the first song."""
        signer = cls(credential=credential)
        made = Made(
            song_id="0" * 32, model="none", digests={}, made_at=datetime.now(UTC), levels=2, seed=0
        )
        try:
            signer.sign(_SILENCE, ".wav", made)
        except StageError as error:
            why = error if error.__cause__ is None else error.__cause__
            raise ConfigError(
                f"cannot sign with {credential.name!r}: {why}; allowed is a certificate for "
                "digital signatures and for e-mail protection, document or claim signing"
            ) from error
        return signer


def verify(
    data: bytes, ending: str, *, sidecar: bytes | None = None, anchors: str = ""
) -> Verified:
    """Say what a file claims and whether that holds, without asking anybody.

    Args:
        data: the file; an Opus needs its ``sidecar``, else its credentials are "absent".
        ending: such as ".wav".
        anchors: certificates to trust, in PEM; none are known here.

    Raises:
        AudioError: no format with that ending has credentials.
    """
    if ending not in MIME_TYPES:
        raise AudioError(f"{ending!r} has no credentials: allowed are {', '.join(MIME_TYPES)}")
    if ending not in EMBEDDED and sidecar is None:
        return Verified(state="absent")
    c2pa = _c2pa()
    try:
        with _context(c2pa, anchors) as context:
            read = c2pa.Reader.try_create(
                MIME_TYPES[ending], io.BytesIO(data), manifest_data=sidecar, context=context
            )
            if read is None:
                return Verified(state="absent")
            with read as reader:
                return _verified(json.loads(reader.json()), reader.get_validation_state())
    except c2pa.C2paError as error:
        return Verified(state="invalid", problems=(_line(error),))
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        return Verified(state="invalid", problems=(f"cannot be understood: {error}",))


def _verified(store: dict[str, Any], state: str | None) -> Verified:
    results = store.get("validation_results", {})
    deltas = [delta.get("validationDeltas", {}) for delta in results.get("ingredientDeltas") or []]
    failures = [
        failure
        for statuses in [results.get("activeManifest") or {}, *deltas]
        for failure in statuses.get("failure", [])
        if failure["code"] != _UNTRUSTED
    ]
    manifest = store["manifests"][store["active_manifest"]]
    told = {one["label"]: one["data"] for one in manifest.get("assertions", [])}
    song, disclosure = _table(told.get(SONG)), _table(told.get(DISCLOSURE))
    acted = told.get(ACTIONS, told.get("c2pa.actions"))
    actions = _table(acted).get("actions") or [{}]
    created = next((one for one in actions if one.get("action") == "c2pa.created"), actions[0])
    generator = (manifest.get("claim_generator_info") or [{}])[0]
    signature = _table(manifest.get("signature_info"))
    digests = {str(part): str(digest) for part, digest in _table(song.get("digests")).items()}
    return Verified(
        state=(state or "invalid").lower(),
        problems=tuple(f"{one['code']}: {one.get('explanation', '')}" for one in failures),
        source=str(created.get("digitalSourceType", "")).removeprefix(SOURCE_TYPES),
        generator=f"{generator.get('name', '')} {generator.get('version', '')}".strip(),
        model=str(disclosure.get("modelName", "")),
        digests=digests,
        song_id=str(song.get("id", "")),
        made_at=str(created.get("when", "")),
        signer=" / ".join(
            str(signature[key]) for key in ("issuer", "common_name") if signature.get(key)
        ),
    )


def _check(found: Verified, made: Made) -> None:
    """Hold what was signed against what was meant; nothing may leave marked wrongly."""
    told = (found.song_id, found.model, dict(found.digests), found.made_at, found.is_ai_generated)
    meant = (made.song_id, made.model, dict(made.digests), made.when, True)
    if not found.is_intact or told != meant:
        problems = "; ".join(found.problems) or f"it says {told}"
        raise StageError(f"the signed file does not verify: {problems}", stage="provenance")


def _context(c2pa: Any, anchors: str = "") -> Any:
    """Return settings for one call: nothing is fetched, and signing is checked by ourselves."""
    trust = {"trust_config": _PURPOSES, **({"user_anchors": anchors} if anchors else {})}
    return c2pa.Context.from_dict(
        {
            "core": {"allowed_network_hosts": []},
            "trust": trust,
            "verify": {
                "remote_manifest_fetch": False,
                "ocsp_fetch": False,
                "verify_after_sign": False,
            },
        }
    )


def _c2pa() -> Any:
    try:
        import c2pa  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError("signing needs c2pa-python: pip install 'khala[serve]'") from error
    return c2pa


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


_SILENCE = struct.pack(
    "<4sI8sIHHIIHH", b"RIFF", 38, b"WAVEfmt ", 16, 1, 1, 44_100, 88_200, 2, 16
) + struct.pack("<4sIH", b"data", 2, 0)
