"""The key that signs: made once, kept from others, or brought by the operator."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from khala.audio import encode_audio
from khala.errors import ConfigError
from khala.serve.provenance import Made, Signer, verify

PURPOSE = ExtendedKeyUsageOID.EMAIL_PROTECTION
DOCUMENTS, CLAIMS = map(x509.ObjectIdentifier, ("1.3.6.1.5.5.7.3.36", "1.3.6.1.4.1.62558.2.1"))
MADE = Made(song_id="0" * 32, model="nano", digests={}, made_at=datetime.now(UTC), levels=2, seed=0)


@pytest.fixture(scope="module")
def plain() -> bytes:
    """A tenth of a second of silence."""
    silence_CN = np.zeros((2, 4_410), np.float32)
    return encode_audio("a.mp3", silence_CN, sample_rate_hz=44_100)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a server made its key; not to be written to."""
    folder = tmp_path_factory.mktemp("server") / "keys"
    Signer.load_or_make(folder)
    return folder


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_is_private_and_stays(tmp_path: Path) -> None:
    """Whoever reads the key signs in this server's name; whoever loses it is another server."""
    folder = tmp_path / "new" / "keys"
    old_mask = os.umask(0)
    try:
        first = Signer.load_or_make(folder)
    finally:
        os.umask(old_mask)
    assert sorted(path.name for path in folder.iterdir()) == ["root.pem", "signer.pem"]
    assert (mode_of(folder), mode_of(folder / "signer.pem")) == (0o700, 0o600)
    assert "PRIVATE" not in (folder / "root.pem").read_text()
    assert "PRIVATE" not in repr(first)
    (folder / "root.pem").unlink()
    assert Signer.load_or_make(folder) == first
    assert (folder / "root.pem").read_text() == first.root


def test_many_starts_at_once(tmp_path: Path) -> None:
    """The same race, closer: threads start on the same new folder, many times."""
    with ThreadPoolExecutor(4) as pool:
        for number in range(10):
            folder = tmp_path / str(number)
            starts = [pool.submit(Signer.load_or_make, folder) for _ in range(4)]
            assert len({start.result().credential.chain for start in starts}) == 1


def test_what_c2pa_asks_of_a_certificate(keys: Path) -> None:
    """Readers refuse a certificate that could also issue others, or serve another purpose."""
    pem = (keys / "signer.pem").read_bytes()
    certificate, root = x509.load_pem_x509_certificates(pem)
    certificate.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    purpose = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert list(purpose.value) == [PURPOSE]
    for one, is_root in ((certificate, False), (root, True)):
        basic = one.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (basic.critical, basic.value.ca) == (True, is_root)
    years = (certificate.not_valid_after_utc - datetime.now(UTC)).days / 365
    assert 19 < years <= 20
    assert pem.count(b"BEGIN PRIVATE KEY") == 1, "the root's own key is gone"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o640])
def test_a_key_that_others_can_read(tmp_path: Path, mode: int) -> None:
    """A leaked key is found out by nobody: better not to start."""
    Signer.load_or_make(tmp_path)
    if os.getuid() == 0:  # a system file may be shared with a group: take that excuse away
        os.chown(tmp_path / "signer.pem", 12_345, 12_345)
    (tmp_path / "signer.pem").chmod(mode)
    with pytest.raises(ConfigError) as error:
        Signer.load_or_make(tmp_path)
    assert f"others can read it (mode 0{mode:o}); allowed is 0600: chmod 600" in str(error.value)


@pytest.mark.parametrize("damage", ["", "cut", "noise", "no certificate"])
def test_a_damaged_key_is_not_replaced(tmp_path: Path, damage: str) -> None:
    """A new key made in silence would make every old song a stranger's."""
    Signer.load_or_make(tmp_path)
    path = tmp_path / "signer.pem"
    whole = path.read_text()
    key = whole[: whole.index("-----BEGIN CERT")]
    broken = {"": "", "cut": whole[:150], "noise": "\0" * 800, "no certificate": key}[damage]
    path.write_text(broken)
    with pytest.raises(ConfigError, match="in PEM"):
        Signer.load_or_make(tmp_path)
    assert path.read_text() == broken


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    """The first start says where no key could be made."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot use .*file"):
        Signer.load_or_make(tmp_path / "file" / "keys")


RACER = """
import sys
from pathlib import Path
from khala.serve.provenance import Signer
import c2pa, cryptography.x509
print("ready", flush=True)
sys.stdin.readline()
print(Signer.load_or_make(Path(sys.argv[1])).credential.chain, end="")
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Workers that start together must be one server, not four with four names."""
    folder = tmp_path / "keys"
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    chains = [racer.communicate(timeout=60)[0] for racer in racers]
    assert "BEGIN CERTIFICATE" in chains[0]
    assert len(set(chains)) == 1
    assert chains[0] == Signer.load_or_make(folder).credential.chain
    assert sorted(path.name for path in folder.iterdir()) == ["root.pem", "signer.pem"]


# -------------------------------------------------------------------------- an operator's own key


class Authority:
    """A root and an intermediate that issue certificates, as a company has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root_key, self.middle_key = (ec.generate_private_key(ec.SECP256R1()) for _ in "12")
        self.root = self.issue("Root", self.root_key, "Root", self.root_key, is_ca=True)
        self.middle = self.issue("Middle", self.middle_key, "Root", self.root_key, is_ca=True)
        self.numbers = itertools.count()

    def issue(
        self,
        name: str,
        key: Any,
        issuer: str,
        issuer_key: Any,
        *,
        is_ca: bool = False,
        purposes: tuple[x509.ObjectIdentifier, ...] = (PURPOSE,),
        days: tuple[float, float] = (-1, 30),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        names = [
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example Music"),
                    x509.NameAttribute(NameOID.COMMON_NAME, one),
                ]
            )
            for one in (name, issuer)
        ]
        usage = dict.fromkeys(
            (
                *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                *("crl_sign", "encipher_only", "decipher_only"),
            ),
            False,
        )
        builder = (
            x509.CertificateBuilder(*names[::-1], key.public_key(), x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, **usage),
                critical=True,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
                critical=False,
            )
        )
        if purposes and not is_ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    def write(
        self,
        key: Any = None,
        *,
        order: str = "smr",
        form: PrivateFormat = PrivateFormat.PKCS8,
        password: bytes | None = None,
        **fields: Any,
    ) -> tuple[Path, Path]:
        """Write a chain (s signer, m intermediate, r root) and its key; both at new places."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        signer = self.issue("Studio", key, "Middle", self.middle_key, **fields)
        parts = {"s": signer, "m": self.middle, "r": self.root}
        number = next(self.numbers)
        chain_path, key_path = (self.folder / f"{name}{number}.pem" for name in ("chain", "key"))
        chain_path.write_bytes(b"".join(parts[one].public_bytes(Encoding.PEM) for one in order))
        lock = BestAvailableEncryption(password) if password else NoEncryption()
        key_path.touch(mode=0o600)
        key_path.write_bytes(key.private_bytes(Encoding.PEM, form, lock))
        return chain_path, key_path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A company's own."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("order", ["smr", "sm"])
@pytest.mark.parametrize(
    "make_key",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65_537, 2_048),
    ],
    ids=["P-256", "P-384", "Ed25519", "RSA"],
)
def test_operators_bring_their_own(
    authority: Authority, plain: bytes, make_key: Callable[[], Any], order: str
) -> None:
    """Only a certificate that others know can be trusted by others."""
    signer = Signer.from_files(*authority.write(make_key(), order=order))
    signed = signer.sign(plain, ".mp3", MADE)
    root = authority.root.public_bytes(Encoding.PEM).decode()
    found = verify(signed, ".mp3", anchors=root)
    assert (found.state, found.signer) == ("trusted", "Example Music / Studio")
    assert verify(signed, ".mp3").state == "valid"
    assert signer.root in ("", root)
    certificates = x509.load_pem_x509_certificates(signer.credential.chain.encode())
    assert certificates[1:] == [authority.middle], "the intermediate is sent, the root is not"


@pytest.mark.parametrize("purpose", [DOCUMENTS, CLAIMS], ids=["documents", "claims"])
def test_purposes(authority: Authority, plain: bytes, purpose: x509.ObjectIdentifier) -> None:
    """Certificates of C2PA's own trust list are for claim signing."""
    signer = Signer.from_files(*authority.write(purposes=(purpose,)))
    assert verify(signer.sign(plain, ".mp3", MADE), ".mp3").state == "valid"


def test_openssl_keys(authority: Authority) -> None:
    """`openssl ecparam` writes keys in the older form."""
    Signer.from_files(*authority.write(form=PrivateFormat.TraditionalOpenSSL))


@pytest.mark.parametrize(
    ("told", "fields"),
    [
        ("the signer's first", {"order": "srm"}),
        ("is not that of the key", {"order": "ms"}),
        ("holds from", {"days": (-10, -1)}),
        ("holds from", {"days": (1, 9)}),
        ("has a password", {"password": b"secret"}),
        ("allowed is a certificate for digital signatures", {"purposes": ()}),
        (
            "allowed is a certificate for digital signatures",
            {"purposes": (ExtendedKeyUsageOID.SERVER_AUTH,)},
        ),
        ("allowed are P-256", {"key": ec.generate_private_key(ec.SECP256K1())}),
    ],
)
def test_credentials_that_do_not_fit(
    authority: Authority, told: str, fields: dict[str, Any]
) -> None:
    """What is wrong with a certificate is said at the start, not by the first listener."""
    with pytest.raises(ConfigError) as error:
        Signer.from_files(*authority.write(**fields))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_do_not_fit(authority: Authority, tmp_path: Path) -> None:
    """Two files that were mixed up, or are not there."""
    chain, key = authority.write()
    other_chain, other_key = authority.write()
    with pytest.raises(ConfigError, match="is not that of the key"):
        Signer.from_files(chain, other_key)
    private_chain = tmp_path / "chain.pem"
    private_chain.touch(mode=0o600)
    private_chain.write_bytes(chain.read_bytes())
    with pytest.raises(ConfigError, match="it is no private key in PEM"):
        Signer.from_files(chain, private_chain)
    with pytest.raises(ConfigError, match="holds no certificates"):
        Signer.from_files(key, key)
    with pytest.raises(ConfigError, match=r"cannot use .*nowhere\.pem'"):
        Signer.from_files(tmp_path / "nowhere.pem", key)
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        Signer.from_files(chain, key)
    Signer.from_files(other_chain, other_key)
