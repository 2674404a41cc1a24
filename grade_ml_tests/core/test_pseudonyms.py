"""Pseudonyms: the same for one secret, useless without it, and a secret that is made once."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.settings import Settings

IDS = pd.Series([f"s{number}" for number in range(1000)] + ["s1", "Ωδ-7"])
MAKE = """
import sys
from pathlib import Path
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.settings import Settings
print(Pseudonyms.of_installation(Settings(_env_file=None, home=Path(sys.argv[1]))).fingerprint)
"""


def test_equal_ids_have_equal_pseudonyms_under_one_secret_only() -> None:
    first, again, other = (Pseudonyms(key).of(IDS) for key in (b"a", b"a", b"b"))
    assert first.equals(again)
    assert first[1] == first[1000] and first.nunique() == IDS.nunique()
    assert not set(first) & set(other)


@pytest.mark.security
def test_ids_cannot_be_recovered_without_the_secret() -> None:
    kept = set(Pseudonyms(b"secret").of(IDS))
    guesses = [
        *pd.util.hash_pandas_object(IDS, index=False),
        *(
            int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest())
            for identifier in IDS
        ),
        *(int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8]) for identifier in IDS),
    ]
    assert not kept & set(guesses)


@pytest.mark.security
def test_processes_that_start_at_once_make_one_secret_that_only_its_owner_reads(
    tmp_path: Path,
) -> None:
    command = (sys.executable, "-c", MAKE, str(tmp_path / "home"))
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    fingerprints = {process.communicate()[0] for process in running}
    assert len(fingerprints) == 1
    files = list((tmp_path / "home").iterdir())
    assert [file.name for file in files] == ["secret"]
    assert files[0].stat().st_mode & 0o777 == 0o600


def test_a_secret_of_the_environment_needs_no_file(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, home=tmp_path / "home", secret="x" * 100)
    assert Pseudonyms.of_installation(settings).of(IDS).nunique() == IDS.nunique()
    assert "x" * 100 not in repr(Pseudonyms.of_installation(settings))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_secret_that_was_cut_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigurationError, match="Restore the file from a backup"):
        Pseudonyms.of_installation(Settings(_env_file=None, home=tmp_path))
