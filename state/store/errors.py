"""Why a store could not be opened, read or written: each says which directory, and what to do."""

from __future__ import annotations


class StoreError(Exception):
    """Whatever is wrong with a store on disk. Never caused by a remote peer."""

    def __init__(self, directory: str, what: str, remedy: str) -> None:
        super().__init__(f"{directory}: {what}. {remedy}")
        self.directory = directory
        self.what = what
        self.remedy = remedy


class ForeignChainError(StoreError):
    """The directory holds another chain, or this chain with other tree parameters."""


class NewerFormatError(StoreError):
    """Written by newer software."""


class CorruptStoreError(StoreError):
    """What is on the disk is not what was written there."""


class StoreBusyError(StoreError):
    """Another process has the directory open, or a snapshot is in the way of what was asked."""


class StoreFullError(StoreError):
    """No space on the disk, or the map's cap reached. Nothing of the transaction was kept; the store goes on."""


class StoreReadOnlyError(StoreError):
    """Opened for reading, or the file system allows no writing."""


class StoreMissingError(StoreError):
    """There is no store in the directory."""


class SnapshotExpiredError(StoreError):
    """A read snapshot was closed under its reader so that the map could grow: take a new one."""
