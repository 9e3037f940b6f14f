"""A second reader of Content Credentials, from the specification: no c2pa, only cryptography.

It knows what our files need: one manifest, ES256, SHA-256, CBOR. Anything else is an AssertionError
or an exception: it exists to disagree.

    file ── RIFF chunk "C2PA", or ID3v2 frame GEOB, or the sidecar itself
    └─ JUMBF c2pa ── urn:c2pa:... ─┬─ c2pa.assertions ── one box for each assertion
                                   ├─ c2pa.claim.v2      hashes of the assertions
                                   └─ c2pa.signature     COSE_Sign1 over the claim, with x5chain
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

ES256, ALGORITHM, X5CHAIN = -7, 1, 33


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """What was found; all of it is covered by a signature that holds."""

    claim: dict[str, Any]
    assertions: dict[str, Any]
    signer: x509.Certificate
    chain: list[x509.Certificate]


def read_by_hand(data: bytes, ending: str, *, sidecar: bytes | None = None) -> ByHand:
    """Find, decode and check the credentials of a file."""
    store, place = (sidecar, range(0)) if sidecar is not None else find_store(data, ending)
    (root,) = boxes(store)
    assert label_of(root) == "c2pa"
    (manifest,) = inner_boxes(root)
    parts = {label_of(box): box for box in inner_boxes(manifest)}
    assert set(parts) == {"c2pa.assertions", "c2pa.claim.v2", "c2pa.signature"}
    claim_bytes = cbor_of(parts["c2pa.claim.v2"])
    claim = cbor(claim_bytes)
    chain = check_signature(cbor(cbor_of(parts["c2pa.signature"])), claim_bytes)

    stored = {label_of(box): box for box in inner_boxes(parts["c2pa.assertions"])}
    named = claim["created_assertions"] + claim.get("gathered_assertions", [])
    assert {f"self#jumbf=c2pa.assertions/{label}" for label in stored} == {
        one["url"] for one in named
    }
    assert claim["alg"] == "sha256"
    for one in named:
        assert sha256(stored[one["url"].rpartition("/")[2]]) == one["hash"], one["url"]
    assertions = {label: cbor(cbor_of(box)) for label, box in stored.items()}
    check_binding(assertions["c2pa.hash.data"], data, place)
    return ByHand(claim=claim, assertions=assertions, signer=chain[0], chain=chain)


# ------------------------------------------------------------------------------------ containers


def find_store(data: bytes, ending: str) -> tuple[bytes, range]:
    """Return the manifest store, and the place of the chunk or frame that holds it."""
    found = list(riff_stores(data) if ending == ".wav" else id3_stores(data))
    assert len(found) == 1, f"{len(found)} stores"
    return found[0]


def riff_stores(data: bytes) -> Iterator[tuple[bytes, range]]:
    assert data[:4] == b"RIFF"
    assert data[8:12] == b"WAVE"
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    at = 12
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        end = at + 8 + size + size % 2
        if name == b"C2PA":
            yield data[at + 8 : at + 8 + size], range(at, end)
        at = end


def id3_stores(data: bytes) -> Iterator[tuple[bytes, range]]:
    assert data[:3] == b"ID3"
    version = data[3]
    at, end = 10, 10 + syncsafe(data[6:10])
    assert data[end : end + 4] == b"fLaC" or data[end : end + 1] == b"\xff", "sound comes after it"
    while at + 10 <= end and data[at]:
        name = data[at : at + 4]
        size = (
            syncsafe(data[at + 4 : at + 8])
            if version == 4
            else int.from_bytes(data[at + 4 : at + 8])
        )
        body = data[at + 10 : at + 10 + size]
        if name == b"GEOB":
            assert body[0] in (0, 3)
            mime, _name, _about, content = body[1:].split(b"\0", 3)
            assert mime == b"application/c2pa"
            yield content, range(at, at + 10 + size)
        at += 10 + size


def syncsafe(four: bytes) -> int:
    assert max(four) < 0x80
    return four[0] << 21 | four[1] << 14 | four[2] << 7 | four[3]


# ----------------------------------------------------------------------------------------- JUMBF


def boxes(data: bytes) -> list[bytes]:
    """Return the contents of boxes in a row, each with its four letters in front."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        assert 8 <= size <= len(data) - at
        found.append(data[at + 4 : at + size])
        at += size
    return found


def inner_boxes(superbox: bytes) -> list[bytes]:
    """Return the boxes in a superbox, without its description."""
    assert superbox[:4] == b"jumb"
    description, *others = boxes(superbox[4:])
    assert description[:4] == b"jumd"
    return others


def label_of(superbox: bytes) -> str:
    assert superbox[:4] == b"jumb"
    description = boxes(superbox[4:])[0]
    assert description[20] & 0b11 == 0b11, "it has a label and may be asked for"
    return description[21:].split(b"\0", 1)[0].decode()


def cbor_of(superbox: bytes) -> bytes:
    (content,) = inner_boxes(superbox)
    assert content[:4] == b"cbor"
    return content[4:]


def sha256(superbox: bytes) -> bytes:
    """Hash a superbox without its eight bytes of header."""
    return hashlib.sha256(superbox[4:]).digest()


# ------------------------------------------------------------------------------------------ CBOR


@dataclass(frozen=True)
class Tagged:
    """A CBOR value with a tag."""

    tag: int
    value: Any


def cbor(data: bytes) -> Any:
    """Decode one value and nothing after it."""
    value, end = cbor_at(data, 0)
    assert end == len(data), "nothing follows"
    return value


def cbor_at(data: bytes, at: int) -> tuple[Any, int]:
    major, short = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        return {20: False, 21: True, 22: None}[short], at
    number = short
    if short >= 24:
        size = {24: 1, 25: 2, 26: 4, 27: 8}[short]
        number, at = int.from_bytes(data[at : at + size]), at + size
    if major in (0, 1):
        return (number if major == 0 else -1 - number), at
    if major in (2, 3):
        content = data[at : at + number]
        assert len(content) == number
        return (content if major == 2 else content.decode()), at + number
    if major == 6:
        value, at = cbor_at(data, at)
        return Tagged(number, value), at
    values = []
    for _ in range(number * (2 if major == 5 else 1)):
        value, at = cbor_at(data, at)
        values.append(value)
    if major == 4:
        return values, at
    table = dict(zip(values[::2], values[1::2], strict=True))
    assert len(table) == number, "no key twice"
    return table, at


def cbor_string(content: bytes, major: int = 2) -> bytes:
    size = len(content)
    if size < 24:
        return bytes([major << 5 | size]) + content
    width = 1 if size < 1 << 8 else 2 if size < 1 << 16 else 4
    head = {1: 24, 2: 25, 4: 26}[width]
    return bytes([major << 5 | head]) + size.to_bytes(width) + content


# ---------------------------------------------------------------------------- signature, binding


def check_signature(sign1: Tagged, claim: bytes) -> list[x509.Certificate]:
    """Check the signature over a claim; return its certificates, the signer's first."""
    assert sign1.tag == 18
    protected, _unprotected, payload, signature = sign1.value
    assert payload is None
    headers = cbor(protected)
    assert headers[ALGORITHM] == ES256
    given = headers[X5CHAIN]
    ders = given if isinstance(given, list) else [given]
    chain = [x509.load_der_x509_certificate(der) for der in ders]
    signed = b"\x84" + cbor_string(b"Signature1", 3) + cbor_string(protected)
    signed += cbor_string(b"") + cbor_string(claim)
    key = chain[0].public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert len(signature) == 64
    pair = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    key.verify(encode_dss_signature(*pair), signed, ec.ECDSA(hashes.SHA256()))
    return chain


def check_binding(told: dict[str, Any], data: bytes, place: range) -> None:
    """Hash the whole file but the credentials themselves: nothing else may be left out."""
    assert told["alg"] == "sha256"
    kept, at = hashlib.sha256(), 0
    for left_out in told.get("exclusions", []):
        start, end = left_out["start"], left_out["start"] + left_out["length"]
        assert place.start <= start <= end <= place.stop, "sound would be left out"
        kept.update(data[at:start])
        at = end
    kept.update(data[at:])
    assert kept.digest() == told["hash"], "the file was changed"
