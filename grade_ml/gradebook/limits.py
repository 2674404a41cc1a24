"""The limits beyond which a delivery counts as a trap or a mistake, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one load; a delivery beyond any of them is refused as a whole.

    Attributes
    ----------
    unpacked_bytes
        Of all CSV files of a zip file together, and of one gzipped file. A university with 40,000
        students and 20 million results writes 2 GB a year.
    ratio
        Of one file, unpacked to packed. Gradebooks pack to a tenth or a twentieth, files with one
        value in each column to a hundredth; archives made to fill a disk reach 1,000.
    checked_from_bytes
        Smaller files may have any ratio: they do no harm.
    rows
        Ten times the largest campus that was loaded.
    columns
        Of one file; student information systems export some hundred.
    manifest_rows
        A manifest has about thirty.
    refused_rows
        Rows in quarantine: no user reads a million, and each nightly run would bring them again.
    refused_share, refused_from_rows
        Of which more than a fifth is refused (and so many rows) has one fault, not many.
    """

    unpacked_bytes: int = 32 << 30
    ratio: int = 300
    checked_from_bytes: int = 64 << 20
    rows: int = 500_000_000
    columns: int = 2_000
    manifest_rows: int = 10_000
    refused_rows: int = 1_000_000
    refused_share: float = 0.2
    refused_from_rows: int = 100_000


LIMITS = Limits()
