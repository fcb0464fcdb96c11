"""Objects of a store by name: list and read through pyarrow's filesystems, write what is not there yet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vae_core.errors import InputError, one_line

__all__ = ["Entry", "Store", "is_http", "is_remote", "open_store", "parted"]

SCHEMES = ("s3",)
PART = 64 << 20  # bytes of one request; larger objects are sent in parts
CHUNK = 8 << 20  # bytes read at once
NOT_THERE = {"NoSuchKey", "404", "NotFound"}
THERE_ALREADY = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
SETTINGS = "AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
SHA256 = "sha256"  # metadata of the objects that we write


def is_remote(place: str | Path) -> bool:
    """Whether a place is an address in a store, not a path.

    >>> is_remote("s3://bucket/reports"), is_remote("reports/2024"), is_remote("C:/reports")
    (True, False, False)
    """
    return "://" in str(place)


@dataclass(frozen=True)
class Entry:
    """An object: its name under the store's root, its size, and when it was last written (nanoseconds)."""

    name: str
    size: int
    changed: int


@dataclass(frozen=True)
class Store:
    """A bucket and a prefix. Address, keys and region come from the environment (AWS_ENDPOINT_URL, ...)."""

    bucket: str
    root: str
    _files: Any = field(repr=False)  # pyarrow's filesystem
    _client: Any = field(repr=False)  # for what it lacks: conditions and metadata

    def address(self, name: str = "") -> str:
        """The object's address, for messages."""
        return "s3://" + "/".join(part for part in (self.bucket, self.root, name) if part)

    def list(self, prefix: str = "") -> list[Entry]:
        """All objects under a folder, sorted by name; none where there is no such folder.

        Raises InputError where there is no such bucket.
        """
        from pyarrow import fs

        base = "/".join(part for part in (self.bucket, self.root, prefix) if part)
        with self._told(prefix):
            found = self._files.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
        start = len("/".join(part for part in (self.bucket, self.root) if part)) + 1
        files = [f for f in found if f.type == fs.FileType.File]
        if not files:
            self.check_bucket()
        return sorted((Entry(f.path[start:], f.size, f.mtime_ns) for f in files), key=lambda e: e.name)

    def check_bucket(self) -> None:
        """Raises InputError where there is no such bucket; one that may not be asked about is believed in."""
        with self._told(""):
            try:
                self._client.head_bucket(Bucket=self.bucket)
            except self._client.exceptions.ClientError as error:
                if _code(error) in {*NOT_THERE, "NoSuchBucket"}:
                    raise InputError(
                        "there is no such bucket",
                        file=f"s3://{self.bucket}",
                        fix="Make it, or check its name and AWS_ENDPOINT_URL",
                    ) from error

    def read(self, name: str) -> bytes | None:
        """The content of an object; None where there is none."""
        with self._told(name):
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=self._key(name))
            except self._client.exceptions.ClientError as error:
                if _code(error) in NOT_THERE:
                    return None
                raise
            body: bytes = answer["Body"].read()
        return body

    def get(self, name: str, path: Path) -> None:
        """Copy an object into a local file."""
        with self._told(name), path.open("wb") as file:
            source = self._files.open_input_stream(f"{self.bucket}/{self._key(name)}", buffer_size=CHUNK)
            with source:
                while chunk := source.read(CHUNK):
                    file.write(chunk)

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object, whatever is there."""
        with self._told(name):
            self._send(name, content)

    def put_if_absent(self, name: str, content: bytes | Path) -> bool:
        """Write an object that must not be there yet; False, and nothing written, where it is."""
        with self._told(name):
            try:
                self._send(name, content, IfNoneMatch="*")
            except self._client.exceptions.ClientError as error:
                if _code(error) in THERE_ALREADY:
                    return False
                raise
        return True

    def _send(self, name: str, content: bytes | Path, **condition: str) -> None:
        if isinstance(content, Path) and content.stat().st_size > PART:
            self._send_in_parts(name, content, **condition)
            return
        data = content.read_bytes() if isinstance(content, Path) else content
        self._client.put_object(
            Bucket=self.bucket,
            Key=self._key(name),
            Body=data,
            Metadata={SHA256: hashlib.sha256(data).hexdigest()},
            **condition,
        )

    def _send_in_parts(self, name: str, path: Path, **condition: str) -> None:
        """An object appears with its last request; what is sent in vain is taken back."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, SHA256).hexdigest()
        place = {"Bucket": self.bucket, "Key": self._key(name)}
        upload = self._client.create_multipart_upload(**place, Metadata={SHA256: digest})["UploadId"]
        try:
            parts: list[dict[str, Any]] = []
            with path.open("rb") as file:
                while chunk := file.read(PART):
                    number = len(parts) + 1
                    sent = self._client.upload_part(**place, UploadId=upload, PartNumber=number, Body=chunk)
                    parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            self._client.complete_multipart_upload(
                **place, UploadId=upload, MultipartUpload={"Parts": parts}, **condition
            )
        except BaseException:
            self._client.abort_multipart_upload(**place, UploadId=upload)
            raise

    def holds(self, name: str, sha256: str, size: int) -> bool:
        """Whether an object is there that was written with this hash and size."""
        head = self._head(name) or {}
        return bool(head.get("ContentLength") == size and head.get("Metadata", {}).get(SHA256) == sha256)

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""
        return self._head(name) is not None

    def _head(self, name: str) -> dict[str, Any] | None:
        """What the store says of an object; None where there is none."""
        with self._told(name):
            try:
                told: dict[str, Any] = self._client.head_object(Bucket=self.bucket, Key=self._key(name))
            except self._client.exceptions.ClientError as error:
                if _code(error) in NOT_THERE:
                    return None
                raise
        return told

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""
        with self._told(name):
            self._client.delete_object(Bucket=self.bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.root, name) if part)

    def _told(self, name: str) -> AbstractContextManager[None]:
        return _told(self.address(name))


@contextmanager
def _told(address: str) -> Iterator[None]:
    """A store that refuses or cannot be reached, or that the environment names wrongly, as one line."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        if _code(error) in THERE_ALREADY | NOT_THERE:
            raise
        problem = f"the store said: {one_line(str(error.response.get('Error', {}).get('Message', '')))}"
        raise InputError(
            f"{problem} ({_code(error)})",
            file=address,
            fix="Check the bucket, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL",
        ) from error
    except BotoCoreError as error:
        raise InputError(
            f"the store cannot be used: {one_line(str(error))}", file=address, fix=f"Check {SETTINGS}"
        ) from error
    except OSError as error:
        if error.filename is not None:  # of a local file
            raise
        raise InputError(f"the store cannot be read: {one_line(str(error))[:300]}", file=address) from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def open_store(address: str) -> Store:
    """The store that `s3://bucket/prefix` means.

    Raises InputError for another scheme, without boto3, or where the environment's settings are none.
    """
    bucket, root = parted(address)
    try:
        import boto3
        from botocore.config import Config
    except ModuleNotFoundError as error:
        raise InputError(
            "stores need the package boto3", file=address, fix="Install it: pip install 'elborank[s3]'"
        ) from error
    from pyarrow import fs

    config = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 4, "mode": "standard"})
    endpoint = _endpoint()
    with _told(address):
        try:
            files = fs.S3FileSystem(request_timeout=60, connect_timeout=10, **endpoint)
            # A client of its own session: the module's default session is not safe among threads.
            client = boto3.session.Session().client("s3", config=config)
        except ValueError as error:
            raise InputError(
                f"the store cannot be used: {one_line(str(error))}", file=address, fix=f"Check {SETTINGS}"
            ) from error
    return Store(bucket, root, files, client)


def parted(address: str) -> tuple[str, str]:
    """Bucket and prefix of an address, which need not be there. Raises InputError for another scheme.

    >>> parted("s3://bucket/reports/2024/"), parted("s3://bucket")
    (('bucket', 'reports/2024'), ('bucket', ''))
    """
    wrong = InputError(
        f'"{one_line(address)}" is no address of a store',
        fix="Write s3://BUCKET/PREFIX; keys belong into the environment",
    )
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise wrong from error
    if parts.scheme not in SCHEMES:
        raise InputError(
            f'there is no way to a store by "{one_line(parts.scheme)}://"',
            fix="Write s3://BUCKET/PREFIX, or a path of this machine",
        )
    root = parts.path.strip("/")
    climbs = any(part in ("", ".", "..") for part in root.split("/") if root)
    if not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc or climbs:
        raise wrong
    return parts.netloc, root


def is_http(address: str) -> bool:
    """Whether a server can be asked at an address.

    >>> [is_http(text) for text in ("https://host:9000/x", "host:9000", "http://host:x", "http://[x")]
    [True, False, False, False]
    """
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket or a port that is none
        return False


def _endpoint() -> dict[str, str]:
    """The address of a store other than Amazon's, as pyarrow takes it."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if text := os.environ.get(name):
            if not is_http(text):
                told = one_line(text.rpartition("@")[2])  # never a password
                raise InputError(
                    f'{name} "{told}" is no address of a server', fix="Write http://HOST:PORT or https://HOST"
                )
            parts = urlsplit(text)
            return {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    return {}
