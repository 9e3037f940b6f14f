"""The key that signs sound files, and the certificates that say whose it is.

    FOLDER/signer.pem    private key, its certificate, and the root that issued it; mode 0600
    FOLDER/root.pem      the root alone, to be given to whoever shall trust these files

A server that was given no certificate makes these at its first start. The key of the root is thrown
away at once: nobody can issue a second certificate in its name, from this computer or a stolen copy
of it.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from khala.audio import replacing
from khala.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, Name

__all__ = ["KEY_FILE", "ROOT_FILE", "VALID_DAYS", "Credential", "load", "load_or_make"]

KEY_FILE, ROOT_FILE = "signer.pem", "root.pem"

VALID_DAYS = 20 * 365
"""Of a certificate made here. Without a time stamp a signature holds as long as its certificate."""

CURVES = (("secp256r1", "ES256"), ("secp384r1", "ES384"), ("secp521r1", "ES512"))
"""Elliptic curves that C2PA allows, and what signing with them is called."""


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A private key and the certificates that vouch for it, checked against each other."""

    algorithm: str
    """As C2PA calls it: ES256, ES384, ES512, PS256 or ED25519."""

    key: str = field(repr=False)
    """PEM, PKCS #8."""

    chain: str = field(repr=False)
    """PEM, the signer's certificate first; without the root, as C2PA recommends."""

    root: str = field(repr=False)
    """PEM of the root if it was given, else empty."""

    begins_at: datetime
    ends_at: datetime
    """While all certificates of the chain hold."""

    name: str
    """Where it comes from."""

    def check_dates(self) -> None:
        """Refuse certificates that do not hold now.

        Raises:
            ConfigError: they have expired, or do not hold yet.
        """
        now = datetime.now(UTC)
        if not self.begins_at <= now <= self.ends_at:
            raise ConfigError(
                f"the certificate in {self.name!r} holds from {self.begins_at:%Y-%m-%d} to "
                f"{self.ends_at:%Y-%m-%d}, and today is {now:%Y-%m-%d}"
            )


def load_or_make(folder: Path) -> Credential:
    """Use the key in a folder; make it first if there is none.

    Of several processes that start at once all use the key of the first.

    Raises:
        ConfigError: it cannot be written, read or used, or others can read it.
    """
    path = folder / KEY_FILE
    try:
        if not path.exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_first(path, _made())
        pem = _private(path)
        credential = _credential(pem, pem, str(path))
        if not (folder / ROOT_FILE).exists():
            with replacing(folder / ROOT_FILE) as temporary:
                temporary.write_text(credential.root)
    except OSError as error:
        raise _unreadable(error, path) from error
    return credential


def load(chain: Path, key: Path) -> Credential:
    """Use an operator's own certificates (PEM, the signer's first) and private key (PEM).

    Raises:
        ConfigError: they cannot be read or used, do not belong together or have expired, or others
            can read the key.
    """
    try:
        return _credential(chain.read_bytes(), _private(key), str(chain), str(key))
    except OSError as error:
        raise _unreadable(error, key) from error


def _unreadable(error: OSError, path: Path) -> ConfigError:
    return ConfigError(f"cannot use {str(error.filename or path)!r}: {error.strerror or error}")


# ---------------------------------------------------------------------------------------- read


def _private(path: Path) -> bytes:
    """Read a file that nobody else may read; the group may where the file is the system's own."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        # a secret mounted into a container belongs to root and a group
        forbidden = 0o037 if status.st_uid == 0 else 0o077
        if status.st_mode & forbidden:
            raise ConfigError(
                f"cannot use the key {str(path)!r}: others can read it (mode "
                f"{stat.S_IMODE(status.st_mode):04o}); allowed is 0600: chmod 600 {path}"
            )
        return file.read()


def _credential(chain: bytes, key: bytes, chain_name: str, key_name: str = "") -> Credential:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    key_name = key_name or chain_name
    try:
        private = load_pem_private_key(key, None)
    except TypeError as error:
        raise ConfigError(f"cannot use the key {key_name!r}: it has a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"cannot use the key {key_name!r}: it is no private key in PEM"
        ) from error
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise ConfigError(f"{chain_name!r} holds no certificates in PEM") from error
    algorithm = _algorithm(private, key_name)
    if certificates[0].public_key() != private.public_key():
        raise ConfigError(
            f"the first certificate in {chain_name!r} is not that of the key {key_name!r}"
        )
    try:
        for issued, issuer in pairwise(certificates):
            issued.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise ConfigError(
            f"the certificates in {chain_name!r} are not in order: the signer's first, then the "
            "one that issued it, and so on"
        ) from error
    last = certificates[-1]
    has_root = len(certificates) > 1 and last.subject == last.issuer
    credential = Credential(
        algorithm=algorithm,
        key=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        chain=_pem(certificates[:-1] if has_root else certificates),
        root=_pem([last]) if has_root else "",
        begins_at=max(one.not_valid_before_utc for one in certificates),
        ends_at=min(one.not_valid_after_utc for one in certificates),
        name=chain_name,
    )
    credential.check_dates()
    return credential


def _algorithm(private: object, name: str) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(private, ec.EllipticCurvePrivateKey):
        for curve, algorithm in CURVES:
            if private.curve.name == curve:
                return algorithm
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ED25519"
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2_048:
        return "PS256"
    raise ConfigError(
        f"cannot use the key {name!r}: allowed are P-256, P-384, P-521, Ed25519 and RSA from 2048 "
        "bits on"
    )


def _pem(certificates: list[Certificate]) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


# ---------------------------------------------------------------------------------------- make


def _made() -> bytes:
    """Return a new private key, its certificate and a root that can issue no other, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    number = secrets.token_hex(4)
    root_name, name = (
        x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Khala (self-made certificate)"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Khala {role} {number}"),
            ]
        )
        for role in ("root", "server")
    )
    root = _certificate(root_name, root_key, root_name, root_key)
    certificate = _certificate(name, key, root_name, root_key)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return (pem + _pem([certificate, root])).encode()


def _certificate(
    name: Name, key: EllipticCurvePrivateKey, issuer: Name, issuer_key: EllipticCurvePrivateKey
) -> Certificate:
    """Issue what C2PA asks for: a root, or a signer that may sign and issue nothing."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    is_root = key is issuer_key
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=not is_root,
        key_cert_sign=is_root,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(is_root, 0 if is_root else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not is_root:  # the purpose that every reader accepts
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purpose, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _write_first(path: Path, content: bytes) -> None:
    """Write a private file whole, unless another process was first: then its file counts."""
    temporary = path.parent / f".khala-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123 - a handle, not a path
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename it never replaces
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
